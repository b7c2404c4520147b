"""`aegis-gateway`: render, check and run the gateway, and print its OpenAPI document."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from aegis_common.errors import AegisError
from aegis_gateway.envoy import envoy_command
from aegis_gateway.errors import AddressTaken
from aegis_gateway.follow import follow as follow_files
from aegis_gateway.openapi import openapi_json
from aegis_gateway.render import render as render_files
from aegis_gateway.settings import GatewaySettings, load_settings, split_address
from aegis_gateway.validate import validate as validate_files

_EXIT_CONFIGURATION: Final = 2

app: Final = typer.Typer(
    help="Render, check and run the gateway: stock Envoy, configured by files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML or JSON file with the settings.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, for example token.issuer=https://...")
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the rendered files.")]


@app.command()
def render(out: Out, settings: SettingsFile = None, override: Overrides = None) -> None:
    """Write Envoy's configuration."""
    bootstrap = render_files(load_settings(settings, override or ()), out)
    typer.echo(bootstrap)


@app.command()
def validate(out: Out) -> None:
    """Check rendered files: Envoy takes them, and they serve the descriptor set, all of it, no more."""
    validate_files(out)
    typer.echo(f"{out} is valid")


@app.command()
def run(
    out: Out,
    settings: SettingsFile = None,
    override: Overrides = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Worker threads.")] = 2,
    log_level: Annotated[str, typer.Option(help="Level of Envoy's own log, on stderr.")] = "warning",
) -> None:
    """Render, check, then become Envoy, with `follow` beside it. The access log goes to stdout."""
    loaded = load_settings(settings, override or ())
    bootstrap = render_files(loaded, out)
    validate_files(out)
    check_addresses(loaded)
    command = envoy_command(bootstrap, concurrency=concurrency, log_level=log_level)
    _start_follower(out, settings, override or ())
    os.execv(command[0], command)  # noqa: S606  # one process, so that signals and its id are Envoy's


@app.command()
def follow(
    out: Out,
    settings: SettingsFile = None,
    override: Overrides = None,
    parent: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Render again whenever the settings, the identities or the key file change; Envoy takes it over."""
    follow_files(
        lambda: load_settings(settings, override or ()),
        out,
        settings_file=settings,
        # The follower of `run` ends with the Envoy that its parent has become.
        alive=lambda: parent in (0, os.getppid()),
    )


def _start_follower(out: Path, settings: Path | None, overrides: Sequence[str]) -> None:
    arguments = ["--out", str(out), *(["--settings", str(settings)] if settings else [])]
    for override in overrides:
        arguments += ["--set", override]
    command = [sys.executable, "-m", "aegis_gateway", "follow", *arguments, "--parent", str(os.getpid())]
    subprocess.Popen(command, stdin=subprocess.DEVNULL)


@app.command()
def openapi(
    out: Annotated[Path | None, typer.Option("--out", help="File; standard output if omitted.")] = None,
) -> None:
    """Print the OpenAPI 3.1 document of the public API."""
    if out is None:
        typer.echo(openapi_json(), nl=False)
    else:
        out.write_text(openapi_json(), encoding="utf-8")


def check_addresses(settings: GatewaySettings) -> None:
    """Return when every listener's address is free. Envoy itself would go on without the listener.

    Raises:
        AddressTaken: It is not; names the setting and the address.
    """
    for name in ("machines_listen", "people_listen", "ops_listen"):
        address = getattr(settings, name)
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise AddressTaken(
                    f"{name}: cannot listen on {address}: {error.strerror}; choose another port",
                    setting=name,
                    address=address,
                ) from error


def main(command: Callable[[], None] = app) -> None:
    """Run the command line; what the user can mend is one message and exit status 2."""
    try:
        command()
    except AegisError as error:
        typer.echo(f"error: {error.message}", err=True)
        raise SystemExit(_EXIT_CONFIGURATION) from None
