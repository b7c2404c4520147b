"""`aegis token`: a token from the development issuer."""

from __future__ import annotations

from typing import Annotated

import typer

from aegis_local.commands.options import StateDirOption
from aegis_local.state import DEFAULT_DIR, StateDir

app = typer.Typer(add_completion=False)


@app.command()
def token(
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="viewer, operator, trainer or admin; may be given several times."),
    ] = None,
    sub: Annotated[str, typer.Option(help="Whom the token speaks for.")] = "developer",
    tenant: Annotated[str, typer.Option(help="Owner of what the calls read and write.")] = "default",
    ttl: Annotated[str, typer.Option(help="Validity, such as 90s, 15m, 1h; at most 1d.")] = "1h",
    state_dir: StateDirOption = DEFAULT_DIR,
) -> None:
    """Print a bearer token for the people's door (role operator unless given). Development only."""
    from aegis_local.issuer import DevIssuer, parse_duration

    issuer = DevIssuer.load(StateDir.at(state_dir).issuer)
    typer.echo(issuer.mint(roles=role or ["operator"], subject=sub, tenant=tenant, ttl=parse_duration(ttl)))
