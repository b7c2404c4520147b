"""What is expected of a zone, slot by slot, and where each part of it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

import numpy as np

from aegis_carbon.domain.forecast import forecast
from aegis_carbon.domain.intensity import Quality, Signal
from aegis_carbon.domain.timeseries import IntensitySeries, Values

IN_HOUSE: Final = "aegis"
"""Source of the slots that no provider forecasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlookPart:
    """Slots of one source.

    Attributes:
        start: Start of the first of them, UTC.
        end: End of the last.
        source: Provider, or `aegis` for our own forecast.
        quality: How the values came about.
        issued_at: When they were given or made, UTC.
    """

    start: datetime
    end: datetime
    source: str
    quality: Quality
    issued_at: datetime


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outlook:
    """Expected intensities without a gap.

    Attributes:
        series: Expected intensity by slot.
        low: Lower edge of the 80 % band, one per slot.
        high: Upper edge.
        errors: What our own forecast got wrong of late, forecasts by slots: measured minus expected, from the
            slot in which it was made on. No rows where the past is too short to tell.
        parts: Where the values come from, in the order of time.
    """

    series: IntensitySeries
    low: Values
    high: Values
    errors: Values
    parts: tuple[OutlookPart, ...]

    @property
    def zone(self) -> str:
        return self.series.zone

    @property
    def signal(self) -> Signal:
        return self.series.signal


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Known:
    """Values that somebody gave, with NaN where they did not.

    Attributes:
        series: The values.
        source: Provider.
        quality: How they came about.
        issued_at: When they were given, UTC.
    """

    series: IntensitySeries
    source: str
    quality: Quality
    issued_at: datetime


def outlook(past: Known, ahead: Known | None, *, now: datetime, until: datetime) -> Outlook:
    """Return the slots from that around *now* to *until*: measured, else the provider's forecast, else ours.

    Args:
        past: What was measured.
        ahead: The provider's own forecast, if it has one; of the same step as *past*.
        now: Present time, UTC.
        until: End of the outlook.

    Raises:
        TooLittleHistory: There is neither a forecast for all slots nor enough history to make one.
    """
    step = past.series.step
    start = past.series.start + past.series.index(now) * step
    measured = past.series.between(start, until)
    given = None if ahead is None else ahead.series.between(start, until)
    history = past.series.between(past.series.start, min(past.series.end, start))
    ours = forecast(history, until)
    skipped = (start - ours.mean.start) // step
    own = ours.mean.values[skipped:]
    values, choice = own.copy(), np.full(len(own), 2)
    for number, series in ((1, given), (0, measured)):
        if series is not None:
            known = ~np.isnan(series.values)
            values[known], choice[known] = series.values[known], number
    sources = (past, ahead, Known(series=ours.mean, source=IN_HOUSE, quality=Quality.FORECAST, issued_at=now))
    low = np.where(choice > 0, values + np.minimum(0.0, ours.low[skipped:] - own), values)
    high = np.where(choice > 0, values + np.maximum(0.0, ours.high[skipped:] - own), values)
    series = IntensitySeries(
        zone=past.series.zone, signal=past.series.signal, start=start, step=step, values=values
    )
    return Outlook(
        series=series,
        low=np.maximum(0.0, low),
        high=high,
        errors=np.where(choice > 0, ours.errors[:, skipped:], 0.0),
        parts=_parts(series, choice, sources),
    )


def _parts(
    series: IntensitySeries, choice: Values, sources: tuple[Known | None, ...]
) -> tuple[OutlookPart, ...]:
    cuts = [0, *(np.flatnonzero(np.diff(choice)) + 1).tolist(), len(choice)]
    parts = []
    for first, last in pairwise(cuts):
        if first < last and (source := sources[int(choice[first])]) is not None:
            start, end = series.start + first * series.step, series.start + last * series.step
            parts.append(
                OutlookPart(
                    start=start,
                    end=end,
                    source=source.source,
                    quality=source.quality,
                    issued_at=source.issued_at,
                )
            )
    return tuple(parts)
