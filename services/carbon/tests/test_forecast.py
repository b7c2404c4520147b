"""Our own forecast, on series whose nature the test knows."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from aegis_carbon.domain.errors import TooLittleHistory
from aegis_carbon.domain.forecast import forecast, forecasts
from aegis_carbon.testing.series import HALF_HOUR, MONDAY, series, weeks

DAY = timedelta(days=1)


def test_a_weekend_is_told_from_a_working_day() -> None:
    friday = 9 * 336 - 96
    history = series(weeks(9)[:friday])

    found = forecast(history, history.end + 3 * DAY).mean.values

    # Half of the members look at days of all kinds, so the truth lies at the far end of what they say.
    saturday, monday = found[:48].mean(), found[96:].mean()
    measured = weeks(10)[friday:]
    assert measured[:48].mean() == pytest.approx(saturday, rel=0.2)
    assert measured[96:144].mean() == pytest.approx(monday, rel=0.06)
    assert saturday < 0.9 * monday


def test_a_course_without_weekends_is_forecast_exactly() -> None:
    values = weeks(10, weekend=1.0)
    history = series(values[: 8 * 336 + 11])

    found = forecast(history, history.end + 3 * DAY)

    np.testing.assert_allclose(found.mean.values, values[8 * 336 + 11 :][:144], rtol=1e-9)
    np.testing.assert_allclose(found.low, found.high, rtol=1e-9)


def test_what_differs_now_fades_with_time() -> None:
    values = weeks(8, weekend=1.0)
    usual = forecast(series(values), MONDAY + 60 * DAY).mean.values
    changed = values.copy()
    changed[-1] += 100

    found = forecast(series(changed), MONDAY + 60 * DAY).mean.values - usual

    # The last slot is part of the profile of its own time of day, too.
    assert found[0] == pytest.approx(98, abs=0.1)
    assert found[20] == pytest.approx(100 * 0.98**21, abs=0.1)
    assert found[95] < 30


def test_the_band_covers_what_it_says() -> None:
    values = weeks(52, noise=8.0)
    history = series(values)
    inside = []
    for origin in range(15 * 336, 51 * 336, 397):
        past = history.between(history.start, history.start + origin * HALF_HOUR)
        found = forecast(past, past.end + 2 * DAY)
        measured = values[origin : origin + 96]
        inside.append((measured >= found.low) & (measured <= found.high))

    assert 0.70 < np.mean(inside) < 0.90


def test_gaps_are_left_out_and_never_taken_for_zero() -> None:
    values = weeks(8, weekend=1.0)
    holed = values.copy()
    holed[np.random.default_rng(1).integers(0, len(values), 600)] = np.nan
    holed[-3:] = np.nan

    found = forecast(series(holed), MONDAY + 58 * DAY)

    expected = weeks(9, weekend=1.0)[8 * 336 :][:96]
    np.testing.assert_allclose(found.mean.values, expected, rtol=1e-9)


def test_the_future_is_not_seen() -> None:
    values = weeks(10, noise=8.0)
    changed = values.copy()
    changed[8 * 336 :] = 0

    origins = np.array([8 * 336 - 96, 8 * 336])

    found = [forecasts(series(row), origins, 96) for row in (values, changed)]
    np.testing.assert_array_equal(found[0], found[1])
    alone = forecast(series(values[: 8 * 336]), MONDAY + 58 * DAY).mean.values
    np.testing.assert_allclose(found[0][1], alone, rtol=1e-12)


@pytest.mark.parametrize("minutes", [5, 15, 60])
def test_any_step_that_divides_a_day_will_do(minutes: int) -> None:
    step = timedelta(minutes=minutes)
    per_day = DAY // step
    values = 200 + np.tile(np.arange(per_day), 20) * 100 / per_day

    found = forecast(series(values, step=step), MONDAY + 21 * DAY)

    np.testing.assert_allclose(found.mean.values, values[:per_day], rtol=1e-9)


def test_a_short_history_gives_a_wide_band() -> None:
    values = weeks(1)[:50]

    found = forecast(series(values), MONDAY + 50 * HALF_HOUR + timedelta(hours=6))

    assert 12 == len(found.mean.values)
    assert (found.high - found.low > 0.5 * found.mean.values).all()
    assert 0 == len(found.errors)


@pytest.mark.parametrize("slots", [0, 1, 40])
def test_less_than_a_day_of_history_is_refused(slots: int) -> None:
    with pytest.raises(TooLittleHistory, match="a whole day is the least") as caught:
        forecast(series(weeks(1)[:slots]), MONDAY + 3 * DAY)

    assert "DE" == caught.value.metadata["zone"]


def test_nothing_is_forecast_for_a_time_that_has_passed() -> None:
    history = series(weeks(3))

    assert 0 == len(forecast(history, history.start).mean.values)
