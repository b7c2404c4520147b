"""Forecast of a zone's intensity from its own past: what days like this looked like, and how this differs.

The mean of six members. Each is a profile (the mean of the same slot on earlier days) plus what the last
known value differs from that profile, which fades with time. Three members look at all of the last 7, 14 and
21 days, three at the last 5, 7 and 10 days of the same kind (working day or weekend, UTC). No member and no
length is chosen by its result: the mean of several is better than each of them, and needs no choice.

The bands are quantiles of what the same method got wrong in the last 30 days, for each distance in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aegis_carbon.domain.errors import TooLittleHistory
from aegis_carbon.domain.timeseries import IntensitySeries, Values

ALL_DAYS: Final = (7, 14, 21)
SAME_KIND: Final = (5, 7, 10)
LEFT_AFTER_AN_HOUR: Final = 0.98**2
"""Share of a difference from the profile that is left an hour later."""
LONGEST_LOOK: Final = 42
"""Days that are looked at."""
USEFUL_DAYS: Final = 75
"""Days of history beyond which more changes nothing: those looked at, and those judged by."""
BAND: Final = (0.1, 0.9)
"""Quantiles of the band: four of five values should lie in it."""
_JUDGED_DAYS: Final = 30
_JUDGED_PER_DAY: Final = 4
_LEAST_JUDGED: Final = 8
_WIDE: Final = 0.5
_POOLED_HOURS: Final = 1.0
_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)
_SATURDAY: Final = 5

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Forecast:
    """What is expected.

    Attributes:
        mean: Expected intensity of each slot.
        low: Lower edge of the 80 % band, gCO2e/kWh, one per slot.
        high: Upper edge.
        errors: What the method got wrong of late, forecasts by slots: measured minus expected; only forecasts
            whose every slot has been measured since.
    """

    mean: IntensitySeries
    low: Values
    high: Values
    errors: Values

    @classmethod
    def unproven(cls, series: IntensitySeries) -> Forecast:
        """Return one of a method whose errors are not known: with a wide band."""
        values = series.values
        return cls(
            mean=series,
            low=values * (1 - _WIDE),
            high=values * (1 + _WIDE),
            errors=np.zeros((0, len(values))),
        )

    def beginning(self, start: datetime) -> Forecast:
        """Return the slots from *start* on, which is the start of one of them."""
        skipped = (start - self.mean.start) // self.mean.step
        return Forecast(
            mean=self.mean.between(start, self.mean.end),
            low=self.low[skipped:],
            high=self.high[skipped:],
            errors=self.errors[:, skipped:],
        )


def forecast(history: IntensitySeries, until: datetime) -> Forecast:
    """Return the slots from the end of *history* to *until*.

    Args:
        history: Measured values, gaps allowed; six weeks and more serve best, a day is the least.
        until: End of the forecast; days ahead at most, for it knows no weather.

    Raises:
        TooLittleHistory: Some time of day was never measured.
    """
    slots = max(0, -((history.end - until) // history.step))
    past = _Past.of(history, slots)
    enough = past.length >= past.per_day
    mean = past.forecasts(np.array([past.length]), slots)[0] if enough else np.full(1, np.nan)
    if np.isnan(mean).any():
        raise TooLittleHistory(
            f"zone {history.zone!r} has too little history for a forecast: a whole day is the least",
            zone=history.zone,
        )
    errors = _errors(past, slots)
    low, high = _band(past, errors, mean)
    series = IntensitySeries(
        zone=history.zone,
        signal=history.signal,
        start=history.end,
        step=history.step,
        values=mean,
        day=history.day,
    )
    return Forecast(mean=series, low=low, high=high, errors=errors[~np.isnan(errors).any(axis=1)])


def forecasts(history: IntensitySeries, origins: Indices, slots: int) -> Values:
    """Return one forecast for each origin, as a matrix of origins by slots; for judging the method.

    Args:
        history: Measured values.
        origins: Numbers of slots in *history*, from 1 on; each forecast begins there, and sees nothing later.
        slots: Length of each.
    """
    return _Past.of(history, slots).forecasts(origins, slots)


@dataclass(frozen=True, slots=True, eq=False)
class _Past:
    """What can be looked back at: values by slot, and which slots (of the future, too) are of a weekend."""

    values: Values
    weekend: Flags
    per_day: int
    hours: float

    @classmethod
    def of(cls, history: IntensitySeries, slots: int) -> _Past:
        numbers = np.arange(len(history.values) + slots) + (history.start - _MONDAY) // history.step
        weekday = numbers // history.per_day % 7
        return cls(history.values, weekday >= _SATURDAY, history.per_day, history.hours)

    @property
    def length(self) -> int:
        return len(self.values)

    def forecasts(self, origins: Indices, slots: int) -> Values:
        ahead = self._profiles(origins, slots)
        last = self._last_known(origins)
        difference = self.values[last] - self._profiles(last, 1)[:, :, 0]
        passed = (origins - last)[:, None] + np.arange(slots)
        left = np.asarray(LEFT_AFTER_AN_HOUR ** (passed * self.hours), np.float64)
        members = ahead + left * np.nan_to_num(difference)[:, :, None]
        return np.asarray(np.maximum(0.0, _mean_of_known(members)))

    def _profiles(self, origins: Indices, slots: int) -> Values:
        """Return members by origins by slots."""
        targets = origins[:, None] + np.arange(slots)
        # A slot of the second day may look only at days that lie before the origin.
        back = np.arange(slots) // self.per_day * self.per_day
        sums = [_Mean(days, targets.shape) for days in (*ALL_DAYS, *SAME_KIND)]
        for day in range(1, LONGEST_LOOK + 1):
            earlier = targets - back - day * self.per_day
            if day <= max(ALL_DAYS):
                for mean in sums[: len(ALL_DAYS)]:
                    mean.add(*self._known(earlier, origins))
            earlier = targets - day * self.per_day
            values, known = self._known(earlier, origins)
            known &= self.weekend[np.maximum(earlier, 0)] == self.weekend[targets]
            for mean in sums[len(ALL_DAYS) :]:
                mean.add(values, known)
        return np.array([mean.result() for mean in sums])

    def _known(self, slots: Indices, origins: Indices) -> tuple[Values, Flags]:
        inside = (slots >= 0) & (slots < np.minimum(origins, self.length)[:, None])
        values = self.values[np.where(inside, slots, 0)]
        return values, inside & ~np.isnan(values)

    def _last_known(self, origins: Indices) -> Indices:
        """Return for each origin the last slot before it that is known, or the one before it if none is."""
        numbers = np.where(np.isnan(self.values), -1, np.arange(self.length))
        latest = np.maximum.accumulate(numbers)[origins - 1]
        return np.where(latest >= 0, latest, origins - 1)


class _Mean:
    """Mean of the first few known values of each slot."""

    def __init__(self, most: int, shape: tuple[int, ...]) -> None:
        self._most = most
        self._sum = np.zeros(shape)
        self._count = np.zeros(shape, np.int64)

    def add(self, values: Values, known: Flags) -> None:
        taken = known & (self._count < self._most)
        self._sum += np.where(taken, values, 0.0)
        self._count += taken

    def result(self) -> Values:
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)


def _mean_of_known(members: Values) -> Values:
    """Return the mean over the first axis; NaN where no member has a value."""
    known = ~np.isnan(members)
    count = known.sum(axis=0)
    total = np.where(known, members, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _band(past: _Past, errors: Values, mean: Values) -> tuple[Values, Values]:
    low, high = np.array([_quantiles(errors, slot, past.hours) for slot in range(len(mean))]).reshape(-1, 2).T
    unknown = np.isnan(low)
    low = np.where(unknown, -_WIDE * mean, low)
    high = np.where(unknown, _WIDE * mean, high)
    return np.maximum(0.0, mean + np.minimum(low, 0.0)), mean + np.maximum(high, 0.0)


def _errors(past: _Past, slots: int) -> Values:
    """Return measured minus expected of the last month: forecasts by slots, NaN where not known yet."""
    first = max(past.per_day, past.length - _JUDGED_DAYS * past.per_day - slots)
    origins = np.arange(first, past.length, max(1, past.per_day // _JUDGED_PER_DAY))
    targets = origins[:, None] + np.arange(slots)
    measured = np.where(targets < past.length, past.values[np.minimum(targets, past.length - 1)], np.nan)
    return measured - past.forecasts(origins, slots)


def _quantiles(errors: Values, slot: int, hours: float) -> tuple[float, float]:
    """Return the band of one slot: from its errors and those of its neighbours, which makes it steadier."""
    around = round(_POOLED_HOURS / hours)
    pooled = errors[:, max(0, slot - around) : slot + around + 1].ravel()
    known = pooled[~np.isnan(pooled)]
    if len(known) < _LEAST_JUDGED:
        return np.nan, np.nan
    low, high = np.quantile(known, BAND)
    return float(low), float(high)
