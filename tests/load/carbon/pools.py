"""What a capacity pool leaves of the saving, and how long it takes to place work in a large one.

Every third night of a year, 16 jobs of two hours come at 17:00 and have ended by 09:00. With no limit each
runs in the cleanest time; with little room most cannot, and with room for two jobs the whole night is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from load.carbon.measured import PER_DAY
from load.carbon.paper import Experiment

from aegis_carbon.domain.job import Interruption, Job, Plan
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.reservations.errors import PoolFull
from aegis_carbon.domain.reservations.pools import Pool
from aegis_carbon.domain.reservations.pools_claims import Claim
from aegis_carbon.domain.timeseries import IntensitySeries

JOBS: Final = 16
CAPACITIES: Final = (None, 16, 8, 4, 3, 2)
MANY: Final = 1000
_MORE: Final = 50
_NIGHTS: Final = 3
_HOUR: Final = timedelta(hours=1)
_FIVE: Final = 34
_NIGHT: Final = 16 * _HOUR
_MODES: Final = {"whole": None, "in pieces": Interruption()}


@dataclass(slots=True)
class Nights:
    """What came of all nights.

    Attributes:
        emitted: Sum of the mean intensities of the jobs.
        at_once: The same had each started when it came.
        moved: Jobs that made way for a later one.
        refused: Jobs for which there was no room.
    """

    emitted: float = 0.0
    at_once: float = 0.0
    moved: int = 0
    refused: int = 0

    @property
    def saved(self) -> float:
        return 100 * (1 - self.emitted / self.at_once)


def nights(series: IntensitySeries, first: int, capacity: int | None, how: Interruption | None) -> Nights:
    """Return what comes of the nights of a year that begins with slot *first*."""
    found = Nights()
    for start in range(first + _FIVE, len(series.values) - PER_DAY, _NIGHTS * PER_DAY):
        pool, plans = Pool(capacity), dict[str, Plan]()
        evening = series.start + start * series.step
        outlook = _known(series.between(evening, evening + _NIGHT))
        for number in range(JOBS):
            try:
                placed = pool.admit(_claim(str(number), evening, _NIGHT, 2 * _HOUR, how, outlook))
            except PoolFull:
                found.refused += 1
                continue
            found.moved += len(placed) - 1
            plans |= {key: item.plan for key, item in placed.items() if item.plan is not None}
        found.emitted += sum(plan.g_per_kwh for plan in plans.values())
        found.at_once += sum(plan.now_g_per_kwh for plan in plans.values())
    return found


def _claim(
    key: str,
    start: datetime,
    within: timedelta,
    length: timedelta,
    how: Interruption | None,
    outlook: Outlook,
) -> Claim:
    job = Job(earliest=start, deadline=start + within, duration=length, interruption=how)
    return Claim(key=key, job=job, outlooks=(outlook,))


def _known(series: IntensitySeries) -> Outlook:
    values = series.values
    return Outlook(series=series, low=values, high=values, errors=np.zeros((0, len(values))), parts=())


def placing(series: IntensitySeries, first: int, how: Interruption | None, capacity: int) -> Iterator[float]:
    """Yield the milliseconds of each placement in a pool that has 1,000 reservations of a week."""
    chance, week = np.random.default_rng(0), 7 * 24
    monday = series.start + first * series.step
    outlook = _known(series.between(monday, monday + week * _HOUR))
    pool = Pool(capacity)
    for number in range(MANY + _MORE):
        length, slack = chance.uniform(0.5, 6), chance.uniform(4, 48)
        start = chance.uniform(0, week - length - slack)
        times = [timedelta(seconds=round(3600 * hours)) for hours in (start, length + slack, length)]
        claim = _claim(str(number), monday + times[0], times[1], times[2], how, outlook)
        began = time.perf_counter()
        pool.admit(claim)
        if number >= MANY:
            yield 1000 * (time.perf_counter() - began)


def table(series: IntensitySeries, experiment: Experiment, say: Callable[[str], None]) -> None:
    """Print what is saved with less and less room, and the time of a placement."""
    say(f"\n### Capacity: {JOBS} jobs of two hours, 17:00 to 09:00, every third night; forecasts are true\n")
    say("| at once | placed | saved | of the saving without a limit | made way | refused |")
    say("|---|---|---|---|---|---|")
    for name, how in _MODES.items():
        best = None
        for capacity in CAPACITIES:
            found = nights(series, experiment.first, capacity, how)
            best = best or found
            share = 100 * found.saved / best.saved
            figures = f"{found.saved:.2f} % | {share:.0f} % | {found.moved} | {found.refused}"
            say(f"| {capacity or 'any'} | {name} | {figures} |")
    say(f"\n| one more in a pool of {MANY:,} | at once | median | slowest |\n|---|---|---|---|")
    for name, how in _MODES.items():
        for capacity in (60, 40):
            took = list(placing(series, experiment.first, how, capacity))
            say(f"| {name} | {capacity} | {np.median(took):.1f} ms | {max(took):.0f} ms |")
