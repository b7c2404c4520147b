"""Measured values, a provider's forecast and ours, in one row."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from aegis_carbon.domain.errors import TooLittleHistory
from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.outlook import outlook
from aegis_carbon.testing.series import HALF_HOUR, MONDAY, series, weeks

NOW = MONDAY + timedelta(days=70, minutes=10)
UNTIL = NOW + timedelta(days=2)
ISSUED = NOW - timedelta(hours=1)
PAST = Known(series=series(weeks(10, noise=8.0)), source="grid", quality=Quality.ACTUAL, issued_at=ISSUED)


def given(values: list[float], *, after: timedelta = timedelta(0)) -> Known:
    start = PAST.series.end + after
    ahead = series(values, start=start)
    return Known(series=ahead, source="grid", quality=Quality.FORECAST, issued_at=ISSUED)


def test_the_providers_forecast_comes_first_and_ours_extends_it() -> None:
    found = outlook(PAST, given([100, 110, 120]), now=NOW, until=UNTIL)

    assert PAST.series.end == found.series.start
    assert UNTIL <= found.series.end < UNTIL + HALF_HOUR
    assert [100, 110, 120] == found.series.values[:3].tolist()
    assert [("grid", 3), ("aegis", 94)] == [
        (part.source, (part.end - part.start) // HALF_HOUR) for part in found.parts
    ]
    assert [ISSUED, NOW] == [part.issued_at for part in found.parts]
    assert not np.isnan(found.series.values).any()


def test_a_gap_in_the_providers_forecast_is_filled_by_ours_and_says_so() -> None:
    found = outlook(PAST, given([100, np.nan, 120]), now=NOW, until=UNTIL)

    assert ["grid", "aegis", "grid", "aegis"] == [part.source for part in found.parts]
    assert found.series.values[1] > 0


def test_the_slot_around_now_is_the_measured_one_where_there_is_one() -> None:
    now = PAST.series.end - timedelta(minutes=5)

    found = outlook(PAST, None, now=now, until=UNTIL)

    assert PAST.series.values[-1] == found.series.values[0] == found.low[0] == found.high[0]
    assert [Quality.ACTUAL, Quality.FORECAST] == [part.quality for part in found.parts]
    assert (found.errors[:, 0] == 0).all()


def test_old_history_still_carries_to_the_end() -> None:
    now = PAST.series.end + timedelta(hours=30)

    found = outlook(PAST, None, now=now, until=now + timedelta(days=1))

    assert now == found.series.start
    assert ["aegis"] == [part.source for part in found.parts]
    assert 48 == len(found.series.values) == len(found.low)
    assert found.errors.shape[1] == 48


def test_the_band_lies_around_the_values() -> None:
    found = outlook(PAST, given([50.0] * 20), now=NOW, until=UNTIL)

    assert (found.low <= found.series.values).all()
    assert (found.series.values <= found.high).all()
    assert (found.low >= 0).all()


def test_without_history_and_forecast_there_is_no_outlook() -> None:
    past = Known(series=series([1, 2]), source="grid", quality=Quality.ACTUAL, issued_at=MONDAY)

    with pytest.raises(TooLittleHistory):
        outlook(past, None, now=MONDAY + HALF_HOUR, until=MONDAY + timedelta(days=1))
