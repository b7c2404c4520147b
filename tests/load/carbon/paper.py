"""The experiments of Wiesner et al., "Let's Wait Awhile" (Middleware 2021), through the product's planner.

Two modes. The paper's has what is needed to meet its figures: windows one slot longer than the deadline
allows, a nightly job of the first day that is dropped though the sum is divided by all days, and forecasts
that are the truth plus independent noise. The strict mode keeps deadlines, as the product does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import numpy as np
from load.carbon.measured import PER_DAY, PER_WEEK

from aegis_carbon.domain.interruptible import Limits, cleanest_stretches, total
from aegis_carbon.domain.timeseries import IntensitySeries, Values
from aegis_carbon.domain.windows import Costs

YEAR: Final = 2020
TOLERANCE: Final = 0.01
"""Percentage points."""
SEEDS: Final = 10
JOBS: Final = 3387
RULES: Final = ("next workday", "semi-weekly")
ERRORS: Final = (0.0, 0.05, 0.1)
NIGHTLY: Final = (
    *(0.0, 0.156082, 0.53904, 1.142092, 1.401581, 1.624071, 1.743634, 1.92465, 2.195589, 2.599863),
    *(3.274361, 4.166827, 5.460181, 6.771092, 8.45359, 9.976686, 11.742793),
)
"""Percent saved in Germany, windows of +-0, 0.5, ... 8 h, 5 % error; decoded from the paper's figures."""
PROJECT: Final = {
    ("next workday", "whole", 0.0): 5.92621,
    ("next workday", "whole", 0.05): 5.912448,
    ("next workday", "whole", 0.1): 5.879421,
    ("next workday", "split", 0.0): 8.155708,
    ("next workday", "split", 0.05): 7.926402,
    ("next workday", "split", 0.1): 7.457009,
    ("semi-weekly", "whole", 0.05): 14.105061,
    ("semi-weekly", "split", 0.05): 18.107016,
}
"""The same for the machine-learning project, by deadline, mode and error."""
_NINE: Final = 18
"""Slot of 09:00."""
_FIVE: Final = 34
_ONE_AT_NIGHT: Final = 2
_SATURDAY: Final = 5


class Experiment:
    """One zone's year.

    Attributes:
        first: Number of its first slot in the series.
    """

    def __init__(self, series: IntensitySeries) -> None:
        first = datetime(YEAR, 1, 1, tzinfo=UTC)
        self.first: Final = series.index(first)
        self._values = series.between(first, series.end).values.copy()
        self._weekday = first.weekday()
        self._days = (datetime(YEAR + 1, 1, 1, tzinfo=UTC) - first).days
        self._true = Costs(self._values)
        self._jobs = list(self._project())

    def nightly(self, half_window: int, error: float, *, strict: bool) -> float:
        """Return the percent saved by a half-hour job at 01:00 that may move by so many slots either way."""
        now = self._nightly(0, 0.0, 0, strict=strict)
        seeds = range(SEEDS if error else 1)
        then = np.mean([self._nightly(half_window, error, seed, strict=strict) for seed in seeds])
        return float(100 * (1 - then / now))

    def project(self, rule: str, mode: str, error: float, *, strict: bool) -> float:
        """Return the percent saved by the jobs of a project, placed whole or split before their deadlines."""
        now = self._emitted("", "whole", 0.0, 0, strict=strict)
        seeds = range(SEEDS if error else 1)
        then = np.mean([self._emitted(rule, mode, error, seed, strict=strict) for seed in seeds])
        return float(100 * (1 - then / now))

    def windows(self, rule: str) -> Iterator[tuple[int, int, int]]:
        """Yield start, duration and time until the deadline of each job, in slots of the year."""
        for start, duration in self._jobs:
            yield start, duration, duration + self._slack(start + duration, rule)

    def _noisy(self, error: float, seed: int) -> Values:
        if not error:
            return self._values
        noise = np.random.default_rng(seed).normal(0, error * self._values.mean(), len(self._values))
        return np.asarray(self._values + noise)

    def _nightly(self, half_window: int, error: float, seed: int, *, strict: bool) -> float:
        costs, emitted = Costs(self._noisy(error, seed)), 0.0
        for day in range(self._days - 1):
            middle = day * PER_DAY + _ONE_AT_NIGHT
            if middle < half_window and not strict:
                continue
            start = costs.best(max(0, middle - half_window), middle + half_window, 1)
            emitted += float(self._true.runs(start, 1))
        return emitted

    def _project(self) -> Iterator[tuple[int, int]]:
        """Yield start and duration of each job, in slots; the order of the draws is the paper's."""
        chance = np.random.default_rng(0)
        workdays = [day for day in range(self._days) if (self._weekday + day) % 7 < _SATURDAY]
        counts = chance.multinomial(JOBS, [1 / len(workdays)] * len(workdays))
        starts = [
            day * PER_DAY + _NINE + np.sort(chance.choice(16, size=count))
            for day, count in zip(workdays, counts, strict=True)
        ]
        durations = 8 + chance.choice(172, size=JOBS)
        yield from zip(np.concatenate(starts).tolist(), durations.tolist(), strict=True)

    def _emitted(self, rule: str, mode: str, error: float, seed: int, *, strict: bool) -> float:
        row = self._noisy(error, seed)
        costs, emitted = Costs(row), 0.0
        for start, duration in self._jobs:
            slack = self._slack(start + duration, rule) + (0 if strict else 1)
            if mode == "whole":
                at = costs.best(start, start + slack, duration)
                emitted += float(self._true.runs(at, duration))
            else:
                deadline = start + duration + slack
                runs = cleanest_stretches(costs, row, start, deadline, duration, Limits())
                emitted += total(self._true, runs)
        return emitted

    def _slack(self, end: int, rule: str) -> int:
        """Return by how many slots a job that would end at *end* may end later."""
        weekday, slot = (self._weekday + end // PER_DAY) % 7, end % PER_DAY
        if not rule:
            return 0
        if rule == "semi-weekly":
            now = weekday * PER_DAY + slot
            return min(at - now for at in (_NINE, 3 * PER_DAY + _NINE, PER_WEEK + _NINE) if at >= now)
        if weekday == _SATURDAY:
            return 2 * PER_DAY + _NINE - slot
        if (
            weekday > _SATURDAY or slot > _FIVE
        ):  # a Friday after 17:00 becomes Saturday 09:00, as in the paper
            return PER_DAY + _NINE - slot
        return _NINE - slot if slot < _NINE else 0


def table(experiment: Experiment, say: Callable[[str], None], *, published: bool) -> list[str]:
    """Print the experiments; return which figures differ from the published ones.

    Args:
        experiment: Of a zone's 2020.
        say: Prints a line.
        published: Whether the zone is Germany, whose figures are known.
    """
    missed: list[str] = []

    def compared(name: str, ours: float, theirs: float | None) -> str:
        if theirs is None or not published:
            return "-"
        if abs(ours - theirs) > TOLERANCE:
            missed.append(f"{name}: {ours:.3f} %, published {theirs:.3f} %")
        return f"{theirs:.2f} %"

    say("\n### A nightly job of half an hour, 5 % noise\n")
    say("| window | saved, the paper's mode | published | strict mode |\n|---|---|---|---|")
    for slots, theirs in enumerate(NIGHTLY):
        ours, strict = (experiment.nightly(slots, 0.05, strict=strict) for strict in (False, True))
        told = compared(f"nightly +-{slots / 2:g} h", ours, theirs)
        say(f"| +-{slots / 2:g} h | {ours:.2f} % | {told} | {strict:.2f} % |")
    say(f"\n### A project of {JOBS} jobs of 4 to 90 hours\n")
    say("| deadline | placed | noise | saved, the paper's mode | published | strict mode |")
    say("|---|---|---|---|---|---|")
    for rule in RULES:
        for mode in ("whole", "split"):
            for error in ERRORS:
                ours, strict = (
                    experiment.project(rule, mode, error, strict=strict) for strict in (False, True)
                )
                told = compared(f"{rule} {mode} {error:.0%}", ours, PROJECT.get((rule, mode, error)))
                say(f"| {rule} | {mode} | {error:.0%} | {ours:.2f} % | {told} | {strict:.2f} % |")
    return missed
