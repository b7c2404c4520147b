"""Shows a training run while it goes on: live on a terminal, else one plain line for each event."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from aegis_client.cli.output import print_json_line, seconds, short
from aegis_client.cli.state import Format

if TYPE_CHECKING:
    from aegis_client.training import Gate, Round, RunEvent, TrainingRun


class View(Protocol):
    """What takes the events of a run."""

    def show(self, event: RunEvent) -> None: ...


@contextmanager
def view(run: TrainingRun, output: Format) -> Iterator[View]:
    """Return the view that fits the output."""
    if output is Format.JSON:
        yield JsonLines()
    elif sys.stdout.isatty():
        from aegis_client.cli.live import live

        with live(run) as screen:
            yield screen
    else:
        yield PlainLines(run.rounds)


class JsonLines:
    """One JSON object a line."""

    def show(self, event: RunEvent) -> None:
        print_json_line(event)


class PlainLines:
    """One line of text for each event."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def show(self, event: RunEvent) -> None:
        if event.run:
            self._rounds = event.run.rounds or self._rounds
            typer.echo(state_line(event.run))
        if event.round:
            typer.echo(round_line(event.round, self._rounds))


def state_line(run: TrainingRun) -> str:
    message = f": {run.state_message}" if run.state_message else ""
    return f"{short(run.name)}  {run.state}{message}"


def round_line(report: Round, rounds: int) -> str:
    cells = [
        f"round {report.number}/{rounds or '?'}",
        metrics_text(report),
        f"gate {gate_text(report.gate)}",
        nodes_text(report),
        seconds(report.duration),
    ]
    return "  ".join(cells)


def metrics_text(report: Round) -> str:
    """Return the accuracy first, then the other metrics."""
    ordered = sorted(report.metrics.items(), key=lambda item: (item[0] != "accuracy", item[0]))
    return ", ".join(f"{name} {value:.4g}" for name, value in ordered) or "no metrics"


def gate_text(gate: Gate | None) -> str:
    if gate is None:
        return "-"
    text = "clean" if gate.clean else gate.reason.lower().replace("_", " ")
    if gate.intensity_g_per_kwh is not None and gate.threshold_g_per_kwh is not None:
        text += f" ({gate.intensity_g_per_kwh:g} of {gate.threshold_g_per_kwh:g} gCO2e/kWh, {gate.source})"
    if gate.waited:
        text += f" after {seconds(gate.waited)}"
    return text


def nodes_text(report: Round) -> str:
    text = f"{report.node_results} nodes"
    failures = ", ".join(f"{short(item.node) or 'a node'}: {item.message}" for item in report.node_failures)
    return f"{text}, failed: {failures}" if failures else text
