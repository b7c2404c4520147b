"""What is expected of a zone, slot by slot, and where each part of it comes from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

import numpy as np

from aegis_carbon.domain.errors import TooLittleHistory
from aegis_carbon.domain.forecast import BAND, Flags, Forecast, forecast
from aegis_carbon.domain.intensity import Quality, Signal
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.timeseries import IntensitySeries, Values

IN_HOUSE: Final = "aegis"
"""Source of the slots that no provider forecasts."""
_LEAST_ISSUES: Final = 8
"""Forecasts of a provider that have to be judged before its band is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlookPart:
    """Slots of one source.

    Attributes:
        start: Start of the first of them, UTC.
        end: End of the last.
        source: Provider, or `aegis` for our own forecast.
        quality: How the values came about.
        issued_at: When they were given or made, UTC.
        band_from: Whose past errors the band rests on: `source` itself, `aegis` where too few forecasts of
            the source have been seen; empty where it is assumed, or there is none.
    """

    start: datetime
    end: datetime
    source: str
    quality: Quality
    issued_at: datetime
    band_from: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outlook:
    """Expected intensities without a gap.

    Attributes:
        series: Expected intensity by slot.
        low: Lower edge of the 80 % band, one per slot.
        high: Upper edge.
        errors: What such forecasts got wrong of late, forecasts by slots: measured minus expected, from the
            slot in which they were made on. No rows where the past is too short to tell.
        parts: Where the values come from, in the order of time.
        mark: Tells what it was made of: another mark is a new forecast.
    """

    series: IntensitySeries
    low: Values
    high: Values
    errors: Values
    parts: tuple[OutlookPart, ...]
    mark: str = ""

    def until(self, end: datetime) -> Outlook:
        """Return the slots that begin before *end*."""
        count = max(1, -((self.series.start - end) // self.series.step))
        cut = self.series.start + count * self.series.step
        parts = (replace(part, end=min(part.end, cut)) for part in self.parts if part.start < cut)
        return Outlook(
            series=self.series.between(self.series.start, cut),
            low=self.low[:count],
            high=self.high[:count],
            errors=self.errors[:, :count],
            parts=tuple(parts),
            mark=self.mark,
        )

    @property
    def zone(self) -> str:
        return self.series.zone

    @property
    def signal(self) -> Signal:
        return self.series.signal


def outlook(
    past: Known | None,
    ahead: Known | None,
    *,
    now: datetime,
    until: datetime,
    errors: Values | None = None,
    mark: str = "",
) -> Outlook:
    """Return the slots from that around *now* to *until*: measured, else the provider's forecast, else ours.

    Args:
        past: What was measured, if anything.
        ahead: The provider's own forecast, if it has one.
        now: Present time, UTC.
        until: End of the outlook.
        errors: What the provider's own forecasts got wrong of late, forecasts by slots, with NaN; no rows or
            None where that is not known: then the band of its part is that of our forecast.
        mark: Tells what it is made of.

    Raises:
        TooLittleHistory: There is neither a forecast for all slots nor enough history to make one.
    """
    known = past or ahead
    if known is None:
        raise TooLittleHistory("there is neither a forecast nor a history to make one from")
    grid = known.series
    start = grid.start + grid.index(now) * grid.step
    given = [None if item is None else _laid_out(item, grid.step, start, until) for item in (past, ahead)]
    ours = _ours(past, given[1], start, until)
    values, choice = ours.mean.values.copy(), np.full(len(ours.mean.values), 2)
    for number in (1, 0):
        if (row := given[number]) is not None:
            filled = ~np.isnan(row.values)
            values[filled], choice[filled] = row.values[filled], number
    uncertain = choice > 0
    low = values + np.where(uncertain, np.minimum(0.0, ours.low - ours.mean.values), 0.0)
    high = values + np.where(uncertain, np.maximum(0.0, ours.high - ours.mean.values), 0.0)
    theirs = _Theirs.of(errors, choice == 1)
    if theirs is not None:
        low, high = theirs.band(values, low, high)
    series = replace(ours.mean, values=values)
    own = Known(series=ours.mean, source=IN_HOUSE, quality=Quality.FORECAST, issued_at=now)
    return Outlook(
        series=series,
        low=np.maximum(0.0, low),
        high=high,
        errors=np.where(uncertain, ours.errors if theirs is None else theirs.among(ours.errors), 0.0),
        parts=_parts(series, choice, (past, ahead, own), _judges(ours, ahead, theirs)),
        mark=mark,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Theirs:
    """What the provider's forecasts got wrong in the slots that are its own now."""

    rows: Values
    chosen: Flags

    @classmethod
    def of(cls, errors: Values | None, chosen: Flags) -> _Theirs | None:
        if errors is None or not chosen.any():
            return None
        rows = np.full((len(errors), len(chosen)), np.nan)
        shared = min(rows.shape[1], errors.shape[1])
        rows[:, :shared] = errors[:, :shared]
        whole = ~np.isnan(rows[:, chosen]).any(axis=1)
        return cls(rows[whole], chosen) if whole.sum() >= _LEAST_ISSUES else None

    def band(self, values: Values, low: Values, high: Values) -> tuple[Values, Values]:
        down, up = np.quantile(self.rows[:, self.chosen], BAND, axis=0)
        low, high = low.copy(), high.copy()
        low[self.chosen] = values[self.chosen] + np.minimum(0.0, down)
        high[self.chosen] = values[self.chosen] + np.maximum(0.0, up)
        return low, high

    def among(self, ours: Values) -> Values:
        """Return our errors with theirs in their slots, as many forecasts as there are of both."""
        count = min(len(self.rows), len(ours)) if not self.chosen.all() else len(self.rows)
        mixed = np.zeros((count, len(self.chosen)))
        if not count:
            return mixed
        if len(ours):
            mixed[:] = ours[-count:] if len(ours) >= count else 0.0
        mixed[:, self.chosen] = self.rows[-count:][:, self.chosen]
        return mixed


def _judges(ours: Forecast, ahead: Known | None, theirs: _Theirs | None) -> tuple[str, str, str]:
    """Return whose errors the bands of measured slots, the provider's and ours rest on."""
    own = IN_HOUSE if len(ours.errors) else ""
    return "", ahead.source if ahead is not None and theirs is not None else own, own


def _laid_out(known: Known, step: timedelta, start: datetime, until: datetime) -> IntensitySeries:
    series = known.series.at_step(step)
    slots = -((start - until) // step)
    moved = (start - series.start) % step
    if moved:  # its slots begin at other moments: each counts for the one that it begins in
        series = replace(series, start=series.start + moved - step)
    return series.between(start, start + slots * step)


def _ours(past: Known | None, given: IntensitySeries | None, start: datetime, until: datetime) -> Forecast:
    """Return our forecast from *start* on; where *given* has no gap, it will do without one."""
    whole = given is not None and not np.isnan(given.values).any()
    if past is not None:
        history = past.series.between(past.series.start, min(past.series.end, start))
        with suppress(*((TooLittleHistory,) if whole else ())):
            return forecast(history, until).beginning(start)
    if given is None or not whole:
        raise TooLittleHistory("there is no history to make a forecast from, and the provider's has gaps")
    return Forecast.unproven(given)


def _parts(
    series: IntensitySeries, choice: Values, sources: tuple[Known | None, ...], judges: tuple[str, ...]
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
                    band_from=judges[int(choice[first])],
                )
            )
    return tuple(parts)
