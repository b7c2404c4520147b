"""`aegis worker run`: serves the tools of a file or module to an agent elsewhere."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aegis_agent.adapters.remote.dialer import Dialer
    from aegis_client.cli.state import CliState

app = typer.Typer(help="Bring tools from this machine.", no_args_is_help=True, add_completion=False)


@app.callback()
def root() -> None:
    """Bring tools from this machine."""


@app.command()
def run(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A Python file, or a module, with @tool functions.")],
    address: Annotated[
        str, typer.Option(help="host:port of the gateway. Default: that of the profile.")
    ] = "",
    slots: Annotated[int, typer.Option(min=1, max=256, help="Most calls at once, of all tools.")] = 4,
    name: Annotated[str, typer.Option(help="Name of the worker. Default: that of the machine.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A word about the machine; repeat it.")
    ] = None,
    cert: Annotated[Path | None, typer.Option(help="Client certificate, PEM. Else the profile's.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Trusted authorities, PEM.")] = None,
    server_name: Annotated[
        str, typer.Option(help="Name in the server's certificate, if not the host of the address.")
    ] = "",
) -> None:
    """Serve tools of this machine until SIGTERM or Ctrl-C.

    Then it finishes what runs, and ends; a second one stops that too. The agent's worker policy says which
    tools the certificate may bring.

    For example: aegis worker run my_tools.py
    """
    from aegis_agent.adapters.remote.run import serve_tools
    from aegis_agent.adapters.remote.worker import WorkerOptions
    from aegis_client.cli.state import CliState

    dialer = _dialer(ctx.find_object(CliState), address, cert, key, ca, server_name)
    labels = dict(_label(item) for item in label or ())
    host = re.sub(r"[^A-Za-z0-9._-]", "-", name or platform.node()).lstrip("._-")[:63] or "worker"
    options = WorkerOptions(name=host, slots=slots, version=_version(), labels=labels)
    serve_tools(source, dialer, options, tell=typer.echo)


def _dialer(
    state: CliState | None,
    address: str,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    server_name: str,
) -> Dialer:
    from aegis_agent.adapters.remote.dialer import Dialer

    if not (address and cert and key and ca):
        profile = state.load_profile() if state is not None else None
        if profile is not None:
            address, server_name = address or profile.address, server_name or profile.server_name
            cert, key, ca = cert or profile.cert, key or profile.key, ca or profile.ca
    if not (address and cert and key and ca):
        raise typer.BadParameter(
            "a worker needs an address, and a certificate with its key and authorities: give --address, "
            "--cert, --key and --ca, or a profile that has them"
        )
    return Dialer(address=address, cert=cert, key=key, ca=ca, server_name=server_name)


def _label(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise typer.BadParameter(f"label {text!r} is not KEY=VALUE")
    return key, value


def _version() -> str:
    from importlib.metadata import version

    return version("aegis-agent")
