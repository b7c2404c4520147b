"""`aegis mcp`: the tools of a deployment for MCP hosts on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import print_json
from aegis_client.cli.state import CliState, state_of
from aegis_client.errors import UsageError
from aegis_client.profiles import Profile

app = typer.Typer(
    cls=PlainGroup, help="Offer the tools to MCP hosts.", no_args_is_help=True, rich_markup_mode=None
)


class Host(StrEnum):
    CLAUDE_DESKTOP = "claude-desktop"
    VSCODE = "vscode"
    CURSOR = "cursor"


_PLACES = {
    Host.CLAUDE_DESKTOP: "claude_desktop_config.json (Settings, Developer, Edit Config)",
    Host.VSCODE: ".vscode/mcp.json of the workspace",
    Host.CURSOR: ".cursor/mcp.json of the project, or ~/.cursor/mcp.json",
}


@app.callback()
def group() -> None:
    """Offer the tools to MCP hosts."""


@app.command()
def stdio(ctx: typer.Context) -> None:
    """Be an MCP server on stdin and stdout, with the tools that the profile's caller may use.

    A host starts this; `aegis mcp config` prints what it needs to know.
    """
    from aegis_client.mcp_bridge import Bridge

    Bridge(state_of(ctx).load_profile(), sys.stdout.buffer).run(sys.stdin.buffer)
    try:
        sys.stdout.flush()
    except OSError:  # the host has gone; the interpreter would try again, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def config(
    ctx: typer.Context,
    host: Annotated[Host, typer.Argument(help="The program that is to use the tools.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the server in the host.")] = "aegis",
    http: Annotated[
        bool,
        typer.Option(
            help="Print the gateway's URL instead of a command: the host signs in by itself at the issuer."
        ),
    ] = False,
) -> None:
    """Print the configuration of an MCP host."""
    state = state_of(ctx)
    profile = state.load_profile()
    if http:
        server: dict[str, Any] = {"url": _url(profile, host)}
        server |= {"type": "http"} if host is Host.VSCODE else {}
    else:
        server = {"command": _command(), "args": [*_options(state), "mcp", "stdio"]}
        server |= {"type": "stdio"} if host is Host.VSCODE else {}
    print_json({"servers" if host is Host.VSCODE else "mcpServers": {name: server}})
    typer.echo(f"Put it into {_PLACES[host]}.", err=True)


def _url(profile: Profile, host: Host) -> str:
    if profile.cert:
        raise UsageError(
            f"profile {profile.name!r} calls with a certificate, at a port that asks for one, and hosts have "
            "none; choose a profile with a token: aegis --profile NAME mcp config ..."
        )
    url = f"https://{profile.address}/mcp"
    if host is Host.CLAUDE_DESKTOP:
        raise UsageError(
            f"{host}'s file takes commands only; add {url} in its Settings, Connectors, or leave out --http"
        )
    return url


def _command() -> str:
    """Return the path of this program: a host has a PATH of its own."""
    found = shutil.which(sys.argv[0])
    return str(Path(found).absolute()) if found else "aegis"


def _options(state: CliState) -> list[str]:
    profile = state.profile
    if profile is None or profile.source is None:
        return []
    return ["--profile-file", str(profile.source.absolute()), "--profile", profile.name]
