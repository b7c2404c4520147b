"""`aegis fl`: run, watch, list, get, cancel, nodes, simulate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegis_client.cli import nodes
from aegis_client.cli.lazy import ExtendedGroup, Known
from aegis_client.cli.output import clock, print_fields, print_json, print_table, seconds, short
from aegis_client.cli.progress import view
from aegis_client.cli.run_text import round_line, state_line
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_client.client import Client
    from aegis_client.training import TrainingRun


class _FlGroup(ExtendedGroup):
    known = {  # noqa: RUF012  # click reads it from instances
        "simulate": Known("Train over virtual nodes on this machine.", distribution="aegis-fl-coordinator"),
    }


app = typer.Typer(
    cls=_FlGroup,
    help="Run and follow federated training.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(nodes.app, name="nodes")


@app.command()
def run(
    ctx: typer.Context,
    training_app: Annotated[str, typer.Argument(metavar="APP", help="Training app, for example digits.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds. Default: the coordinator's.")] = None,
    min_nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes that a round needs. Default: the coordinator's.")
    ] = None,
    model: Annotated[str, typer.Option(help="Publish the result as this model.", show_default=False)] = "",
    zone: Annotated[str, typer.Option(help="Grid zone that counts.", show_default=False)] = "",
    max_intensity: Annotated[
        float | None,
        typer.Option(metavar="G_PER_KWH", help="Threshold of the gate. Default: the zone's own."),
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Longest wait before a round. Default: 1 h.")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A value of the app's own configuration; repeat it."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the run.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Create a training run and follow it to its end."""
    with state_of(ctx).client() as client:
        made = client.training.create(
            training_app,
            rounds=rounds or 0,
            min_nodes=min_nodes or 0,
            model=model,
            zone=zone,
            max_intensity=max_intensity,
            max_wait=max_wait,
            config=_config(config),
        )
        if detach:
            _print(made, output)
            return
        if output is Format.TEXT:
            typer.echo(f"{made.name}  trace {made.trace_id}")
        _follow(client, made, output)


@app.command()
def watch(ctx: typer.Context, name: str, output: Output = Format.TEXT) -> None:
    """Follow a run to its end; the exit code is 1 when it did not succeed."""
    with state_of(ctx).client() as client:
        _follow(client, client.training.get(name), output)


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
def get(ctx: typer.Context, name: str, output: Output = Format.TEXT) -> None:
    """Show a run with its rounds so far."""
    with state_of(ctx).client() as client:
        _print(client.training.get(name), output)


@app.command()
def cancel(ctx: typer.Context, name: str, output: Output = Format.TEXT) -> None:
    """Stop a run."""
    with state_of(ctx).client() as client:
        _print(client.training.cancel(name), output)


def _follow(client: Client, run: TrainingRun, output: Format) -> None:
    final = run
    try:
        with view(run, output) as shown:
            for event in client.training.watch(run.name):
                shown.show(event)
                final = event.run or final
    except KeyboardInterrupt:
        typer.echo(
            f"{short(run.name)} goes on; follow it: aegis fl watch {short(run.name)}; "
            f"stop it: aegis fl cancel {short(run.name)}",
            err=True,
        )
        raise
    if output is Format.TEXT:
        published = f", published as {final.model_version}" if final.model_version else ""
        typer.echo(f"{state_line(final)}{published}")
    if not final.succeeded:
        raise typer.Exit(1)


def _print(run: TrainingRun, output: Format) -> None:
    if output is Format.JSON:
        print_json(run)
        return
    print_fields(
        {
            "name": run.name,
            "app": run.app,
            "state": run.state,
            "message": run.state_message,
            "rounds": f"{run.completed_rounds} of {run.rounds}",
            "created": f"{clock(run.create_time)} by {run.creator}",
            "ended": clock(run.end_time) if run.end_time else "",
            "took": seconds(run.end_time - run.create_time) if run.end_time and run.create_time else "",
            "model": run.model_version or run.model,
            "trace": run.trace_id,
        }
    )
    for report in run.round_reports:
        typer.echo(round_line(report, run.rounds))


def _config(pairs: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, sign, text = pair.partition("=")
        if not (name and sign):
            raise UsageError(f"--config {pair!r} is not NAME=VALUE")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
