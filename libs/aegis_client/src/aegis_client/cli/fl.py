"""`aegis fl`: run, watch, list, get, rounds, pause, resume, cancel, nodes, app, simulate."""

from __future__ import annotations

from typing import Annotated

import typer

from aegis_client.cli import fl_export, fl_plot, fl_run, nodes, training_apps
from aegis_client.cli.arguments import RunArgument
from aegis_client.cli.lazy import ExtendedGroup, Known
from aegis_client.cli.output import clock, print_json, print_table, short
from aegis_client.cli.run_follow import follow, print_run
from aegis_client.cli.run_text import NODE_COLUMNS, ROUND_COLUMNS, node_rows, round_row
from aegis_client.cli.state import Format, Output, state_of


class _FlGroup(ExtendedGroup):
    known = {  # noqa: RUF012  # click reads it from instances
        "new": Known("Write a training app with its test.", distribution="aegis-fl-coordinator"),
        "simulate": Known("Train over virtual nodes on this machine.", distribution="aegis-fl-coordinator"),
    }


app = typer.Typer(
    cls=_FlGroup,
    help="Run and follow federated training.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(nodes.app, name="nodes")
app.add_typer(training_apps.app, name="app")
app.command("run")(fl_run.run)
app.command("plot")(fl_plot.plot)
app.command("export")(fl_export.export)


@app.command()
def watch(ctx: typer.Context, name: RunArgument, output: Output = Format.TEXT) -> None:
    """Follow a run to its end; the exit code is 1 when it did not succeed."""
    with state_of(ctx).client() as client:
        follow(client, client.training.get(name), output)


@app.command("list")
def list_runs(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List your runs, newest first."""
    with state_of(ctx).client() as client:
        runs = list(client.training.list())
    if output is Format.JSON:
        print_json(runs)
        return
    rows = [
        (
            short(item.name),
            item.app,
            item.state,
            f"{item.completed_rounds}/{item.rounds}",
            clock(item.create_time),
        )
        for item in runs
    ]
    print_table(("run", "app", "state", "rounds", "created"), rows, empty="no runs")


@app.command()
def get(ctx: typer.Context, name: RunArgument, output: Output = Format.TEXT) -> None:
    """Show a run with its rounds so far."""
    with state_of(ctx).client() as client:
        print_run(client.training.get(name), output)


@app.command()
def pause(
    ctx: typer.Context,
    name: RunArgument,
    now: Annotated[
        bool, typer.Option("--now", help="Give the round under way up; it is trained again later.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Pause a run after the round under way, until it is resumed."""
    with state_of(ctx).client() as client:
        print_run(client.training.pause(name, immediate=now), output)


@app.command()
def resume(ctx: typer.Context, name: RunArgument, output: Output = Format.TEXT) -> None:
    """Let a run that is paused or has failed go on after its last round."""
    with state_of(ctx).client() as client:
        print_run(client.training.resume(name), output)


@app.command()
def cancel(ctx: typer.Context, name: RunArgument, output: Output = Format.TEXT) -> None:
    """Stop a run."""
    with state_of(ctx).client() as client:
        print_run(client.training.cancel(name), output)


@app.command()
def rounds(
    ctx: typer.Context,
    name: RunArgument,
    nodes: Annotated[bool, typer.Option("--nodes", help="What each node did in each round.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """List what each round of a run gave, and how the grid and the nodes were."""
    with state_of(ctx).client() as client:
        found = list(client.training.rounds(name))
    if output is Format.JSON:
        print_json(found)
    elif nodes:
        print_table(NODE_COLUMNS, node_rows(found), empty="no rounds yet")
    else:
        print_table(ROUND_COLUMNS, map(round_row, found), empty="no rounds yet")
