"""The project of the paper with a forecast that one can have: planned once, or again every 6 hours.

Each forecast sees only what was measured before it is made; the placement is the planner of the product, and
deadlines are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from load.carbon.paper import RULES, Experiment

from aegis_carbon.domain.forecast import forecasts
from aegis_carbon.domain.interruptible import Limits, cleanest_stretches, total
from aegis_carbon.domain.timeseries import IntensitySeries, Values
from aegis_carbon.domain.windows import Costs

AGAIN: Final = 12
"""Slots between two plans: 6 hours."""
_AT_ONCE: Final = 200
_WORSE: Final = 1.0001
ORACLE, ONCE, RENEWED = "oracle", "our forecast, once", "our forecast, again every 6 h"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one policy over all jobs.

    Attributes:
        saved: Percent of the emissions of starting at once.
        share: Percent of what the oracle saves in the same mode.
        worse: Percent of the jobs that emit more than they would have at once.
    """

    saved: float
    share: float
    worse: float


class Project:
    """The jobs of one zone's year, and a forecast for each moment at which one is planned."""

    def __init__(self, series: IntensitySeries, experiment: Experiment) -> None:
        self._series = series
        self._experiment = experiment
        self._made: dict[int, Values] = {}

    def outcomes(self, rule: str) -> dict[tuple[str, str], Outcome]:
        """Return what comes of each policy, by its name and how it places jobs, for deadlines by *rule*."""
        jobs = list(self._experiment.windows(rule))
        self._prepare(jobs)
        rows: dict[tuple[str, str], list[float]] = {}
        now = []
        for start, duration, window in jobs:
            true = self._truth(start, window)
            costs, expected = Costs(true), self._made[start][:window]
            now.append(float(costs.runs(0, duration)))
            for name, row in ((ORACLE, true), (ONCE, expected)):
                rows.setdefault((name, "whole"), []).append(_whole(costs, row, duration))
                rows.setdefault((name, "split"), []).append(_split(costs, row, duration))
            rows.setdefault((RENEWED, "split"), []).append(self._renewed(costs, start, duration, window))
        return {key: _outcome(rows[ORACLE, key[1]], row, now) for key, row in rows.items()}

    def _renewed(self, costs: Costs, start: int, duration: int, window: int) -> float:
        """Return what a job emits that is planned anew every 6 hours, and runs as the newest plan says."""
        emitted, worked, at = 0.0, 0.0, 0
        while duration - worked > 1e-9:
            left, rest = duration - worked, window - at
            if rest - left < 1e-9:
                return emitted + float(costs.runs(at, left))
            row = self._made[start + at][:rest]
            until = min(AGAIN, rest)
            for begin, end in cleanest_stretches(Costs(row), row, 0, rest, left, Limits()):
                length = min(end, until) - begin
                if length > 0:
                    emitted += float(costs.runs(at + begin, length))
                    worked += length
            at += until
        return emitted

    def _truth(self, start: int, length: int) -> Values:
        first = self._experiment.first + start
        return self._series.values[first : first + length]

    def _prepare(self, jobs: list[tuple[int, int, int]]) -> None:
        """Make the forecasts that the jobs may need, each once."""
        moments = {at for start, _, window in jobs for at in range(start, start + window, AGAIN)}
        longest = max(window for *_, window in jobs)
        missing = sorted(at for at in moments if len(self._made.get(at, ())) < longest)
        for number in range(0, len(missing), _AT_ONCE):
            chunk = missing[number : number + _AT_ONCE]
            found = forecasts(self._series, np.array(chunk) + self._experiment.first, longest)
            self._made |= dict(zip(chunk, found, strict=True))


def _whole(costs: Costs, row: Values, duration: int) -> float:
    return float(costs.runs(Costs(row).best(0, len(row) - duration, duration), duration))


def _split(costs: Costs, row: Values, duration: int) -> float:
    return total(costs, cleanest_stretches(Costs(row), row, 0, len(row), duration, Limits()))


def _outcome(oracle: list[float], row: list[float], now: list[float]) -> Outcome:
    saved, possible = 1 - sum(row) / sum(now), 1 - sum(oracle) / sum(now)
    worse = np.mean(np.array(row) > np.array(now) * _WORSE)
    return Outcome(100 * saved, 100 * saved / possible, 100 * float(worse))


def table(series: IntensitySeries, experiment: Experiment, say: Callable[[str], None]) -> None:
    """Print what the project saves with a forecast that is made from the past alone."""
    project = Project(series, experiment)
    say("\n### The same project with our forecast, deadlines kept\n")
    say("| deadline | placed | policy | saved | of the oracle's saving | jobs made worse |")
    say("|---|---|---|---|---|---|")
    for rule in RULES:
        outcomes = project.outcomes(rule)
        for name, mode in sorted(outcomes, key=lambda key: key[1] != "whole"):
            found = outcomes[name, mode]
            figures = f"{found.saved:.2f} % | {found.share:.0f} % | {found.worse:.0f} %"
            say(f"| {rule} | {mode} | {name} | {figures} |")
