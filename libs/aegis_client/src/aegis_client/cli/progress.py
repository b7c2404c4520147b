"""Shows a training run while it goes on: live on a terminal, else one plain line for each event."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from aegis_client.cli.output import print_json_line
from aegis_client.cli.run_text import round_line, state_line
from aegis_client.cli.state import Format

if TYPE_CHECKING:
    from aegis_client.training_forms import RunEvent, TrainingRun


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
    """One line of text for each event but the end, which the command tells with the model."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def show(self, event: RunEvent) -> None:
        if event.run:
            self._rounds = event.run.rounds or self._rounds
            if not event.run.ended:
                typer.echo(state_line(event.run))
        if event.round:
            typer.echo(round_line(event.round, self._rounds))
