"""`aegis fl app`: which training apps may run."""

from __future__ import annotations

from typing import Annotated

import typer

from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import clock, print_json, print_table, short
from aegis_client.cli.state import Format, Output, state_of

app = typer.Typer(
    cls=PlainGroup,
    help="List, approve and revoke training apps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_apps(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List the installed apps, their digests, and whether they may run."""
    with state_of(ctx).client() as client:
        apps = list(client.training_apps.list())
    if output is Format.JSON:
        print_json(apps)
        return
    rows = [
        (
            short(item.name),
            item.state,
            f"{item.decided_by} {clock(item.decide_time)}" if item.decided_by else "-",
            item.sha256 or item.fault,
        )
        for item in apps
    ]
    print_table(("app", "state", "decided by", "digest"), rows, empty="no apps")


@app.command()
def approve(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="APP", help="App, for example digits.")],
    digest: Annotated[
        str, typer.Argument(metavar="SHA256", help="Digest of what you have reviewed; `list` shows it.")
    ],
    output: Output = Format.TEXT,
) -> None:
    """Let an app run for your tenant, as long as it has this digest. It is code: review it first."""
    with state_of(ctx).client() as client:
        made = client.training_apps.approve(name, digest)
    if output is Format.JSON:
        print_json(made)
    else:
        typer.echo(f"{short(made.name)} may run with digest {made.sha256}")


@app.command()
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="APP", help="App, for example digits.")],
    digest: Annotated[
        str,
        typer.Argument(metavar="[SHA256]", help="Digest. Default: the installed app's.", show_default=False),
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Let an app run no more for your tenant, and cancel its runs."""
    with state_of(ctx).client() as client:
        done = client.training_apps.revoke(name, digest)
    if output is Format.JSON:
        print_json(done)
        return
    stopped = ", ".join(short(run) for run in done.cancelled_runs) or "none"
    state = done.app.state.lower().replace("_", " ")
    typer.echo(f"{short(done.app.name)} is {state}; runs cancelled: {stopped}")
