"""Suspending and resuming, against every schedule that there is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aegis_carbon.domain.interruptible import Limits, Stretch, cleanest_stretches, total
from aegis_carbon.domain.windows import Costs


def solved(row: list[float], earliest: float, deadline: float, work: float, limits: Limits) -> list[Stretch]:
    values = np.array(row, np.float64)
    return cleanest_stretches(Costs(values), values, earliest, deadline, work, limits)


def every_schedule(slots: int, work: int, limits: Limits) -> Iterator[list[Stretch]]:
    """Yield every schedule of whole slots that keeps the limits."""
    for bits in product((0, 1), repeat=slots):
        ends = [(key, len(list(run))) for key, run in groupby(bits)]
        starts = np.cumsum([0, *(length for _, length in ends)])
        runs = [(float(a), float(a + n)) for (key, n), a in zip(ends, starts[:-1], strict=True) if key]
        overhead = limits.overhead * (len(runs) - 1)
        if not runs or sum(bits) - overhead != work or (limits.interruptions or 99) < len(runs) - 1:
            continue
        if all(b - a >= limits.least for a, b in runs) and all(b - a > limits.overhead for a, b in runs[1:]):
            yield runs


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=9),
    st.integers(1, 6),
    st.integers(0, 3),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([0, 1]),
)
def test_no_schedule_of_whole_slots_is_cleaner(
    row: list[float], work: int, least: int, interruptions: int | None, overhead: int
) -> None:
    assume(least <= work <= len(row))
    limits = Limits(float(least), interruptions, float(overhead))
    costs = Costs(np.array(row, np.float64))

    found = solved(row, 0, len(row), work, limits)

    best = min(total(costs, schedule) for schedule in every_schedule(len(row), work, limits))
    assert total(costs, found) <= best + 1e-4
    assert work == pytest.approx(sum(b - a for a, b in found) - overhead * (len(found) - 1))
    assert len(found) - 1 <= (99 if interruptions is None else interruptions)
    assert all(b - a >= least - 1e-9 for a, b in found)
    assert all(b < c for (_, b), (c, _) in pairwise(found))


def test_without_limits_it_takes_the_cleanest_slots_and_parts_of_slots() -> None:
    found = solved([5, 1, 9, 2, 9, 3], 0.5, 6, 2.5, Limits())

    assert [(1, 2), (3, 4), (5, 5.5)] == found


def test_a_part_of_a_slot_joins_the_stretch_after_it() -> None:
    assert [(0.5, 2)] == solved([2, 1, 9], 0, 3, 1.5, Limits())


def test_a_job_without_slack_runs_at_once() -> None:
    assert [(0.25, 2.25)] == solved([9, 9, 1], 0.25, 2.25, 2, Limits(least=0.3, overhead=0.1))


def test_an_interruption_that_costs_more_than_it_saves_is_not_made() -> None:
    row = [1.0, 1, 2, 1, 1, 9]

    assert [(0, 2), (3, 5)] == solved(row, 0, 6, 4, Limits())
    assert 1 == len(solved(row, 0, 6, 4, Limits(overhead=1.0)))


def test_an_unknown_slot_is_not_taken_while_there_is_another() -> None:
    assert [(1, 3)] == solved([np.nan, 9, 9, np.nan], 0, 4, 2, Limits())
    assert [(1, 3)] == solved([np.nan, 9, 9, np.nan], 0, 4, 2, Limits(least=1))


def test_a_job_that_may_stop_may_start_at_once() -> None:
    row = [1.0, 1, 9, 9, 1, 1]

    found = solved(row, 0.37, 6, 3, Limits(least=0.5, overhead=0.05))

    assert 0.37 == pytest.approx(found[0][0])
