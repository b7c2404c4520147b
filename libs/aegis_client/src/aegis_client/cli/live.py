"""The live view of a training run on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from aegis_client.cli.output import seconds, short
from aegis_client.cli.run_text import gate_text, metrics_text, nodes_text

if TYPE_CHECKING:
    from aegis_client.round_forms import Round
    from aegis_client.training_forms import RunEvent, TrainingRun


@contextmanager
def live(run: TrainingRun) -> Iterator[Screen]:
    """Keep a progress bar and a table of rounds on the screen."""
    screen = Screen(run)
    with Live(get_renderable=screen.render, refresh_per_second=4):
        yield screen


class Screen:
    """What is shown: the state, a bar over the rounds, and a row for each round."""

    def __init__(self, run: TrainingRun) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task(run.state, total=run.rounds or None)
        self._title = short(run.name)
        self._message = run.state_message
        self._rounds: dict[int, Round] = {report.number: report for report in run.round_reports}

    def show(self, event: RunEvent) -> None:
        if event.run:
            self._message = event.run.state_message
            self._progress.update(self._task, description=event.run.state, total=event.run.rounds or None)
        if event.round:
            self._rounds[event.round.number] = event.round
        self._progress.update(self._task, completed=len(self._rounds))

    def render(self) -> Group:
        table = Table(title=self._title, title_justify="left")
        for name in ("round", "metrics", "carbon gate", "nodes", "time"):
            table.add_column(name)
        for number, report in sorted(self._rounds.items()):
            # Text, so that brackets in a message are no markup
            cells = (
                metrics_text(report),
                gate_text(report.gate),
                nodes_text(report),
                seconds(report.duration),
            )
            table.add_row(str(number), *(Text(cell) for cell in cells))
        return Group(table, self._progress, Text(self._message))
