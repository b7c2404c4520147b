"""The cleanest contiguous window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_carbon.domain.windows import Costs

rows = st.lists(st.integers(0, 900), min_size=4, max_size=30).map(lambda row: np.array(row, np.float64))
tenths = st.integers(0, 300).map(lambda number: number / 10)
jobs = st.tuples(tenths, tenths, st.sampled_from([0.5, 1, 1.7, 2, 3]))


def dense(costs: Costs, earliest: float, latest: float, duration: float) -> float:
    """Return the least cost over a fine comb of starts, which knows nothing of edges."""
    return float(costs.runs(np.linspace(earliest, latest, 2001), duration).min())


@given(rows, tenths, tenths, tenths)
def test_no_start_is_cleaner_than_the_best(row: np.ndarray, a: float, b: float, c: float) -> None:
    earliest, latest, end = sorted((a % len(row), b % len(row), c % len(row)))
    duration = end - latest + 0.1
    costs = Costs(np.append(row, row[-1]))

    best = costs.best(earliest, latest, duration)

    assert earliest <= best <= latest
    assert costs.runs(best, duration) <= dense(costs, earliest, latest, duration) + 1e-6


@given(
    rows, st.lists(st.tuples(tenths, tenths, st.sampled_from([0.5, 1, 1.7, 2, 3])), min_size=1, max_size=20)
)
def test_many_jobs_get_what_each_would_get_alone(row: np.ndarray, asked: list[tuple[float, ...]]) -> None:
    costs, room = Costs(row), len(row)
    wanted = [(a % (room - d), b % (room - d), d) for a, b, d in asked]
    earliest, latest, duration = np.array([(min(a, b), max(a, b), d) for a, b, d in wanted]).T

    together = costs.best_of_many(earliest, latest, duration)

    alone = [costs.best(*job) for job in zip(earliest, latest, duration, strict=True)]
    assert pytest.approx(alone, abs=1e-9) == together.tolist()


@pytest.mark.parametrize(("earliest", "latest", "duration"), [(1, 9, 2), (1.3, 8.9, 2), (1.3, 9, 2.5)])
def test_of_equally_clean_windows_the_earliest_is_taken(
    earliest: float, latest: float, duration: float
) -> None:
    costs = Costs(np.full(12, 0.1))

    assert earliest == costs.best(earliest, latest, duration)
    jobs = [np.array([value, value], np.float64) for value in (earliest, latest, duration)]
    assert [earliest, earliest] == costs.best_of_many(*jobs).tolist()


def test_a_window_over_an_unknown_slot_is_never_taken_for_clean() -> None:
    costs = Costs(np.array([9, np.nan, 8, 7, np.nan, 1]))

    assert 2 == costs.best(0, 4, 2)
    assert 2 == costs.best_of_many(np.zeros(1), np.full(1, 4.0), np.full(1, 2.0))[0]
    assert np.inf == costs.runs(0.5, 1)


def test_a_window_outside_the_row_costs_infinity() -> None:
    costs = Costs(np.array([1.0, 2.0]))

    np.testing.assert_array_equal([np.inf, np.inf, 3], costs.runs([-0.1, 0.5, 0], 2))


def test_a_shaped_run_is_placed_where_its_hungry_part_is_clean() -> None:
    row = np.array([5.0, 9, 1, 9, 5, 9])
    durations, weights = np.array([1.0, 1.0]), np.array([1.0, 10.0])

    best = Costs(row).best_shaped(0, 4, durations, weights)

    assert (1, 19) == (best, Costs(row).shaped(best, durations, weights)[0])


@given(rows, st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=3))
def test_no_start_of_a_shaped_run_is_cleaner(row: np.ndarray, parts: list[tuple[int, int]]) -> None:
    durations = np.array([length / 10 for length, _ in parts]) / len(parts)
    weights = np.array([weight for _, weight in parts], np.float64)
    costs, latest = Costs(row), len(row) - durations.sum() - 0.05

    best = costs.best_shaped(0.15, latest, durations, weights)

    comb = costs.shaped(np.linspace(0.15, latest, 2001), durations, weights)
    assert costs.shaped(best, durations, weights)[0] <= comb.min() + 1e-5
