"""Slots of any kind on one grid."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from aegis_carbon.domain.intensity import MarginalIntensity, Quality
from aegis_carbon.domain.timeseries import IntensitySeries
from aegis_carbon.testing.series import HALF_HOUR, MONDAY, series, slot

HOUR = timedelta(hours=1)


def test_slots_in_any_order_become_a_series_with_its_gaps() -> None:
    found = IntensitySeries.of(
        [slot(MONDAY + 3 * HALF_HOUR, 4), slot(MONDAY, 1), slot(MONDAY + HALF_HOUR, 0)]
    )

    assert (MONDAY, HALF_HOUR, MONDAY + 2 * HOUR) == (found.start, found.step, found.end)
    np.testing.assert_array_equal([1, 0, np.nan, 4], found.values)


def test_slots_of_different_lengths_are_laid_out_in_the_step_that_fits_all() -> None:
    found = IntensitySeries.of([slot(MONDAY, 7, minutes=60), slot(MONDAY + HOUR, 9, minutes=15)])

    assert timedelta(minutes=15) == found.step
    np.testing.assert_array_equal([7, 7, 7, 7, 9], found.values)


def test_of_overlapping_slots_the_measured_one_wins_and_then_the_later_start() -> None:
    found = IntensitySeries.of(
        [
            slot(MONDAY, 5),
            slot(MONDAY, 6, quality=Quality.FORECAST, fetched_at=MONDAY + HOUR),
            slot(MONDAY + HALF_HOUR, 1, minutes=60, quality=Quality.FORECAST),
            slot(MONDAY + HOUR, 2, minutes=30, quality=Quality.FORECAST),
        ]
    )

    np.testing.assert_array_equal([5, 1, 2], found.values)


def test_a_span_outside_the_series_is_unknown_and_not_zero() -> None:
    found = series([1, 2, 3]).between(MONDAY - HALF_HOUR, MONDAY + HOUR + timedelta(minutes=1))

    assert MONDAY - HALF_HOUR == found.start
    np.testing.assert_array_equal([np.nan, 1, 2, 3], found.values)
    np.testing.assert_array_equal([np.nan], series([1]).between(MONDAY + HOUR, MONDAY + 3 * HALF_HOUR).values)


def test_values_cannot_be_changed_behind_the_back_of_whoever_has_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        series([1, 2]).values[0] = 3


def test_signals_cannot_be_mixed() -> None:
    marginal = MarginalIntensity("DE", 3, MONDAY, MONDAY + HALF_HOUR, Quality.ACTUAL, "test", MONDAY)

    with pytest.raises(ValueError, match="several zones or signals"):
        IntensitySeries.of([slot(MONDAY, 1), marginal])


@pytest.mark.parametrize("values", [[1, -1], [1, np.inf]])
def test_an_impossible_value_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="negative or infinite"):
        series(values)


def test_a_step_that_does_not_divide_a_day_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide a day"):
        series([1], step=timedelta(minutes=7))


def test_another_step_has_the_means_and_no_value_made_up() -> None:
    finer = series([1, 3, np.nan, 5]).at_step(timedelta(minutes=15))
    coarser = series([1, 3, np.nan, 5, 7]).at_step(HOUR)

    np.testing.assert_array_equal([1, 1, 3, 3, np.nan, np.nan, 5, 5], finer.values)
    np.testing.assert_array_equal([2, np.nan, np.nan], coarser.values)
    assert (HOUR, MONDAY) == (coarser.step, coarser.start)


def test_a_replay_that_runs_fast_has_short_days() -> None:
    second = timedelta(seconds=1)

    found = IntensitySeries.of(
        [slot(MONDAY, 3, minutes=1 / 48), slot(MONDAY + 1.25 * second, 4, minutes=1 / 48)],
        day=timedelta(minutes=1),
    )

    assert (1.25 * second, 48, 0.5) == (found.step, found.per_day, found.hours)
    assert [3, 4] == found.values.tolist()
