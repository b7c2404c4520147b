"""`aegis status`: what runs, and where it answers."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from typing import Annotated, Any

import typer

from aegis_client.cli.state import CliState, Format
from aegis_local.commands.options import StateDirOption
from aegis_local.state import DEFAULT_DIR, StateDir

app = typer.Typer(add_completion=False)


class Output(StrEnum):
    """Forms of the answer."""

    TEXT = "text"
    JSON = "json"
    ENV = "env"


def _remember(ctx: typer.Context, value: Output) -> Output:
    state = ctx.find_object(CliState)
    if state is not None and value is Output.JSON:
        state.format = Format.JSON  # errors too
    return value


@app.command()
def status(
    output: Annotated[
        Output, typer.Option("-o", "--output", help="env is for a shell.", callback=_remember)
    ] = Output.TEXT,
    state_dir: StateDirOption = DEFAULT_DIR,
) -> None:
    """Show the processes of the running stack; exit status 1 when something is not ready."""
    state = StateDir.at(state_dir)
    record = state.read_status()
    record["healthy"] = is_healthy(record, state)
    if output is Output.JSON:
        typer.echo(json.dumps(record, indent=1))
    elif output is Output.ENV:
        for name, value in environment(record, state).items():
            typer.echo(f"export {name}={shlex.quote(value)}")
    else:
        typer.echo(table(record))
    if not record["healthy"]:
        raise typer.Exit(1)


def is_healthy(record: dict[str, Any], state: StateDir) -> bool:
    """Say whether every process is ready and the gateway says that the services are."""
    import asyncio

    from aegis_local.supervisor.probes import https_ok
    from aegis_local.supervisor.spec import NotReady

    if record["phase"] != "ready" or any(entry["state"] != "ready" for entry in record["processes"]):
        return False
    probe = https_ok(f"https://127.0.0.1:{record['ports']['people']}/healthz", bundle=state.ca / "bundle.crt")
    try:
        asyncio.run(probe())
    except (NotReady, OSError):
        return False
    return True


def environment(record: dict[str, Any], state: StateDir) -> dict[str, str]:
    """Return variables that point the client, and a shell's curl lines, at this stack."""
    return {
        "AEGIS_STATE_DIR": str(state.root),
        "AEGIS_PROFILE_FILE": str(state.profiles),
        "AEGIS_PEOPLE_URL": f"https://localhost:{record['ports']['people']}",
        "AEGIS_MACHINES_ADDRESS": f"localhost:{record['ports']['machines']}",
        "AEGIS_CA_FILE": str(state.ca / "bundle.crt"),
        "AEGIS_CERT_FILE": str(state.ca / "sdk" / "tls.crt"),
        "AEGIS_KEY_FILE": str(state.ca / "sdk" / "tls.key"),
    }


def table(record: dict[str, Any]) -> str:
    """Return the status as text."""
    entries = record["processes"]
    width = max(len(entry["name"]) for entry in entries)
    lines = [f"{record['phase']} since {record['started']}  state {record['state_dir']}"]
    lines += [
        f"  {entry['name']:<{width}}  {entry['state']:<11}  pid {entry['pid'] or '-':<8}"
        f"restarts {entry['restarts']:<4}{entry['url']}".rstrip()
        for entry in entries
    ]
    if not record["healthy"]:
        lines.append("Not everything answers: see `aegis logs` and `aegis doctor`.")
    return "\n".join(lines)
