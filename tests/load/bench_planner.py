"""Placing jobs in 48 hours of half hours: the time of a placement, one at a time and thousands at once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
from load.harness import Bench, Contender, Figure, Samples

from aegis_carbon.domain.windows import Costs

SLOTS: Final = 96
LONGEST: Final = 24
JOBS: Final = 20_000
FEW: Final = 400
"""As many are placed by whoever takes them one at a time."""

FIGURES: Final = (
    Figure(name="single", title="A placement, one at a time", unit="us", scale=1e6, leads={"naive": 5.0}),
    Figure(
        name="batch", title="A placement among 20,000 at once", unit="us", scale=1e6, leads={"naive": 30.0}
    ),
)

Job = tuple[int, int, int]
"""First slot, deadline and duration, in slots."""


def naive(row: list[float], job: Job) -> int:
    """Add up each window, as one would write it first."""
    first, deadline, duration = job
    best, at = float("inf"), first
    for start in range(first, deadline - duration + 1):
        cost = 0.0
        for offset in range(duration):
            cost += row[start + offset]
        if cost < best:
            best, at = cost, start
    return at


def rolling(row: list[float], job: Job) -> int:
    """Average a queue anew for each step, which is the algorithm of the Carbon Aware SDK."""
    first, deadline, duration = job
    best, at, queue = float("inf"), first, list[float]()
    for slot in range(first, deadline):
        queue.append(row[slot])
        if len(queue) > duration:
            queue.pop(0)
        if len(queue) == duration and (mean := sum(queue) / duration) < best:
            best, at = mean, slot - duration + 1
    return at


@asynccontextmanager
async def contenders() -> AsyncIterator[Sequence[Contender]]:
    chance = np.random.default_rng(1)
    row = 200 + 50 * np.sin(np.arange(SLOTS) / 48 * 2 * np.pi) + chance.normal(0, 20, SLOTS)
    duration = chance.integers(1, LONGEST + 1, JOBS)
    first = chance.integers(0, SLOTS // 4, JOBS)
    deadline = np.minimum(SLOTS, first + duration + chance.integers(1, SLOTS // 2, JOBS))
    jobs = list(zip(first.tolist(), deadline.tolist(), duration.tolist(), strict=True))[:FEW]
    values, costs = row.tolist(), Costs(row)
    least = costs.runs([naive(values, job) for job in jobs], duration[:FEW])

    def timed(place: Callable[[], Sequence[float]], count: int) -> float:
        begin = time.perf_counter()
        found = place()
        took = time.perf_counter() - begin
        if not np.allclose(least, costs.runs(found[:FEW], duration[:FEW])):
            raise AssertionError("a window is not the cleanest")
        return took / count

    def one_by_one() -> Sequence[float]:
        fresh = Costs(row)
        return [fresh.best(first, deadline - duration, duration) for first, deadline, duration in jobs]

    def at_once() -> Sequence[float]:
        arrays = [array.astype(np.float64) for array in (first, deadline - duration, duration)]
        return list(Costs(row).best_of_many(*arrays))

    async def ours() -> Samples:
        return {"single": [timed(one_by_one, FEW)], "batch": [timed(at_once, JOBS)]}

    def peer(name: str, place: Callable[[list[float], Job], int]) -> Contender:
        async def measure() -> Samples:
            took = timed(lambda: [place(values, job) for job in jobs], FEW)
            return {"single": [took], "batch": [took]}

        return Contender(name=name, measure=measure)

    yield [Contender(name="AEGIS", measure=ours), peer("naive", naive), peer("rolling average", rolling)]


BENCH: Final = Bench(
    name="planner",
    about="the cleanest window for a job in 48 hours of half hours",
    figures=FIGURES,
    contenders=contenders,
    rounds=15,
    peers=["numpy"],
)
