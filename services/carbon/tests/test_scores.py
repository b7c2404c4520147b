"""Forecasts are kept as they were given, and scored when measured values arrive; bands rest on that."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.outlook import Outlook, OutlookPart, outlook
from aegis_carbon.domain.scores import ForecastScores, Score
from aegis_carbon.domain.timeseries import Values
from aegis_carbon.testing.series import HALF_HOUR, MONDAY, series

HOUR = timedelta(hours=1)


def given(values: list[float] | Values, start: datetime, source: str = "uk") -> Outlook:
    row = series(values, start=start)
    part = OutlookPart(start=start, end=row.end, source=source, quality=Quality.FORECAST, issued_at=start)
    low = high = row.values
    return Outlook(series=row, low=low, high=high, errors=np.zeros((0, len(row.values))), parts=(part,))


def known(values: list[float] | Values, start: datetime, quality: Quality = Quality.ACTUAL) -> Known:
    return Known(series=series(values, start=start), source="uk", quality=quality, issued_at=start)


def one(scores: ForecastScores) -> Score:
    [score] = scores.scores()
    return score


def test_a_forecast_is_scored_once_when_its_slots_are_measured() -> None:
    scores = ForecastScores()
    scores.given(given([100, 100, 100, 100], MONDAY))
    assert [] == list(scores.scores())
    scores.measured(known([80, 125], MONDAY))
    scores.measured(known([80, 125, 100], MONDAY))
    score = one(scores)

    assert ("uk", "0h-6h", 3) == (score.source, score.horizon, score.count)
    assert (0.25 + 0.2 + 0) / 3 == pytest.approx(score.mape)
    assert (0.25 - 0.2 + 0) / 3 == pytest.approx(score.bias)


def test_a_gap_and_a_zero_are_not_scored() -> None:
    scores = ForecastScores()
    scores.given(given([100, 100, 100], MONDAY))
    scores.measured(known([np.nan, 0, 50], MONDAY))

    assert (1, 1.0) == (one(scores).count, one(scores).mape)


def test_what_was_not_measured_scores_nothing() -> None:
    scores = ForecastScores()
    scores.given(given([100, 100], MONDAY))
    scores.measured(known([80, 80], MONDAY, Quality.FORECAST))

    assert [] == list(scores.scores())


def test_horizons_are_scored_apart() -> None:
    scores = ForecastScores()
    scores.given(given([100.0] * 97, MONDAY))
    scores.measured(known([50.0] * 12 + [80.0] * 36 + [100.0] * 49, MONDAY))

    found = list(scores.scores())
    assert [("0h-6h", 12), ("6h-24h", 36), ("24h-48h", 48)] == [(s.horizon, s.count) for s in found]
    assert pytest.approx([1.0, 0.25, 0.0]) == [score.mape for score in found]


def test_a_later_forecast_of_the_same_slots_leaves_the_earlier_one_as_it_was() -> None:
    scores = ForecastScores()
    for number, value in enumerate((100, 200)):
        scores.given(given([value] * (6 - 2 * number), MONDAY + number * HOUR))
    scores.given(given([999] * 3, MONDAY + HOUR + HALF_HOUR))  # too soon after the one before
    scores.measured(known([100] * 6, MONDAY))

    assert 6 + 4 == one(scores).count
    assert pytest.approx(4 / 10) == one(scores).mape


def test_memory_is_bounded() -> None:
    scores = ForecastScores()
    for number in range(300):
        scores.given(given([100.0] * 400, MONDAY + number * HOUR))
    [track] = scores._tracks.values()

    assert 64 == len(track.issues)
    assert max(len(issue.errors) for issue in track.issues) == 97
    for number in range(100):
        scores.given(given([100], MONDAY, source=f"provider-{number}"))
    assert 64 == len(scores._tracks)


def test_the_band_of_a_provider_rests_on_its_own_errors_once_they_are_known() -> None:
    rng, slots = np.random.default_rng(0), 8
    day = 200 + 100 * np.sin(np.arange(48) / 48 * 2 * np.pi)
    past = known(np.tile(day, 40) + rng.uniform(-60, 60, 48 * 40), MONDAY)
    now = past.series.end
    ahead = Known(series=series(day[:slots], start=now), source="uk", quality=Quality.FORECAST, issued_at=now)
    errors = rng.uniform(-10, 10, (200, slots + 1))
    until = now + (slots + 4) * HALF_HOUR
    without = outlook(past, ahead, now=now, until=until)
    found = outlook(past, ahead, now=now, until=until, errors=errors)

    assert ["aegis", "aegis"] == [part.band_from for part in without.parts]
    assert ["uk", "aegis"] == [part.band_from for part in found.parts]
    width = found.high - found.low
    assert 16 == pytest.approx(width[:slots].mean(), abs=2)
    assert (without.high - without.low)[:slots].mean() > 2 * width[:slots].mean()
    assert np.array_equal(found.low[slots:], without.low[slots:])
    assert np.abs(found.errors[:, :slots]).max() <= 10
    assert len(found.errors) == min(200, len(without.errors))


def test_a_few_forecasts_make_no_band() -> None:
    past = known(np.full(48 * 40, 100.0), MONDAY)
    now = past.series.end
    ahead = Known(series=series([90.0] * 4, start=now), source="uk", quality=Quality.FORECAST, issued_at=now)
    found = outlook(past, ahead, now=now, until=now + 4 * HALF_HOUR, errors=np.zeros((7, 4)))

    assert ["aegis"] == [part.band_from for part in found.parts]


def test_errors_are_those_of_forecasts_that_were_measured() -> None:
    scores = ForecastScores()
    for number in range(20):
        scores.given(given([100.0] * 8, MONDAY + number * HOUR))
    scores.measured(known([130.0] * 24, MONDAY))
    rows = scores.errors("DE", "uk", HALF_HOUR, 8)

    assert rows.shape == (12, 8)
    assert np.nanmax(rows) == np.nanmin(rows) == 30
    assert (0, 8) == scores.errors("DE", "uk", HOUR, 8).shape
    assert (0, 8) == scores.errors("DE", "nobody", HALF_HOUR, 8).shape
