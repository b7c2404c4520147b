"""Follows a training run on the command line, and prints one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from aegis_client.cli.output import clock, print_fields, print_json, seconds, short
from aegis_client.cli.progress import view
from aegis_client.cli.run_text import (
    aggregation_text,
    pause_text,
    policy_text,
    privacy_text,
    round_line,
    state_line,
)
from aegis_client.cli.state import Format

if TYPE_CHECKING:
    from aegis_client.client import Client
    from aegis_client.training_forms import TrainingRun


def follow(client: Client, run: TrainingRun, output: Format) -> None:
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
    if final.state == "FAILED" and output is Format.TEXT:
        typer.echo(
            f"it can go on after round {final.completed_rounds}: aegis fl resume {short(run.name)}", err=True
        )
    if not final.succeeded:
        raise typer.Exit(1)


def print_run(run: TrainingRun, output: Format) -> None:
    if output is Format.JSON:
        print_json(run)
        return
    print_fields(
        {
            "name": run.name,
            "app": run.app,
            "state": run.state,
            "message": run.state_message,
            "paused": pause_text(run.pause) if run.pause else "",
            "rounds": f"{run.completed_rounds} of {run.rounds}",
            "nodes": f"{run.virtual_nodes} virtual" if run.virtual_nodes else f"at least {run.min_nodes}",
            "strategy": aggregation_text(run.aggregation),
            "privacy": privacy_text(run.privacy),
            "carbon": policy_text(run.carbon_policy),
            "seed": "" if run.seed is None else run.seed,
            "created": f"{clock(run.create_time)} by {run.creator}",
            "ended": clock(run.end_time) if run.end_time else "",
            "took": seconds(run.end_time - run.create_time) if run.end_time and run.create_time else "",
            "model": run.model_version or run.model,
            "trace": run.trace_id,
        }
    )
    for report in run.round_reports:
        typer.echo(round_line(report, run.rounds))
