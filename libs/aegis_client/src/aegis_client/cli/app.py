"""The `aegis` command: its groups, what stands before them, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import click
import typer
import typer.core
import typer.main

from aegis_client.cli.lazy import Known, LazyGroup
from aegis_client.cli.state import CliState, state_of

# Plain help: rich takes longer to import than all the rest, and would escape brackets in it.
typer.core.HAS_RICH = False


class _Argument(typer.core.TyperArgument):
    """An argument whose help is told once: click 8.4 and up forget what typer 0.20 sets, or tell it too."""

    def __init__(self, *, help: str | None = None, **rest: Any) -> None:  # noqa: A002  # its name in typer
        super().__init__(**rest)
        self._told = help

    def get_help_record(self, ctx: click.Context) -> Any:
        self.help = self._told
        try:
            return super().get_help_record(ctx)
        finally:
            self.help = None


typer.main.TyperArgument = _Argument  # type: ignore[attr-defined]

_LOCAL: Final = "aegis-local"
_EPILOG: Final = (
    "Exit codes: 0 done; 1 the call or the work failed; 2 wrong usage or configuration; 3 not authenticated "
    "or not allowed; 4 the service cannot be reached; 124 the time was up; 130 interrupted."
)


class AegisGroup(LazyGroup):
    known = {  # noqa: RUF012  # click reads it from instances
        "up": Known("Start the whole stack on this machine.", distribution=_LOCAL),
        "down": Known("Stop the stack.", distribution=_LOCAL),
        "status": Known("Show what runs, and where.", distribution=_LOCAL),
        "logs": Known("Show the logs of the stack.", distribution=_LOCAL),
        "token": Known("Print a token of the stack's own issuer.", distribution=_LOCAL),
        "doctor": Known("Check that this machine can run the stack.", distribution=_LOCAL),
        "tools": Known("List, describe and run tools.", "aegis_client.cli.tools"),
        "artifacts": Known("Store large content, and fetch it.", "aegis_client.cli.artifacts"),
        "jobs": Known("Run tools as durable jobs, and follow them.", "aegis_client.cli.jobs"),
        "carbon": Known("Ask how clean the grid is, and whether to start now.", "aegis_client.cli.carbon"),
        "fl": Known("Run and follow federated training.", "aegis_client.cli.fl"),
        "models": Known("Bring your own models; promote, check and fetch any.", "aegis_client.cli.models"),
        "mcp": Known("Offer the tools to MCP hosts.", "aegis_client.cli.mcp"),
        "worker": Known("Bring tools from this machine.", distribution="aegis-agent"),
        "audit": Known("Verify audit logs.", "aegis_client.cli.audit"),
        "version": Known("Print versions, for bug reports.", "aegis_client.cli.version"),
    }


app = typer.Typer(
    name="aegis",
    cls=AegisGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog=_EPILOG)
def root(
    ctx: typer.Context,
    profile_file: Annotated[
        Path | None,
        typer.Option(
            help="Profile file. Default: $AEGIS_PROFILE_FILE, then ./.aegis/profiles.toml, "
            "then ~/.config/aegis/profiles.toml."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Profile in that file. Default: $AEGIS_PROFILE, then the file's own default."),
    ] = None,
) -> None:
    """AEGIS: run tools, ask about carbon, train across sites."""
    state = state_of(ctx)
    state.profile_file, state.profile_name = profile_file, profile


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; whatever goes wrong is printed, never a traceback."""
    from aegis_client.cli import failures

    state = CliState()
    command = typer.main.get_command(app)
    try:
        result = command.main(list(arguments), prog_name="aegis", standalone_mode=False, obj=state)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return failures.INTERRUPTED
    except Exception as error:  # the last stop before a traceback
        failures.show(error, state)
        return failures.exit_code(error)
    return result if isinstance(result, int) else 0
