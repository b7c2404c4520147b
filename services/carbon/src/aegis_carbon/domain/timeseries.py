"""The intensity of one zone over time, in half-open UTC slots of one length; what is not known is NaN."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import gcd
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from aegis_carbon.domain.intensity import Intensity, Quality, Signal

Values = NDArray[np.float64]

DAY: Final = timedelta(days=1)
_MOST_PER_DAY: Final = 288
_ROUNDING: Final = 1e-9
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class IntensitySeries:
    """One value per slot.

    Attributes:
        zone: Zone id.
        signal: What the values are averages of.
        start: Start of the first slot, UTC.
        step: Length of a slot; a whole number of them makes a day.
        day: Length of a day, after which the course of values is likely to repeat; shorter than 24 h in a
            replay that runs fast.
        values: gCO2e/kWh, one per slot, read-only; NaN where nothing is known. A gap is never 0.

    Raises:
        ValueError: `step` does not divide a day, or a value is negative or infinite.
    """

    zone: str
    signal: Signal
    start: datetime
    step: timedelta
    values: Values
    day: timedelta = DAY

    def __post_init__(self) -> None:
        if self.step <= timedelta(0) or self.day % self.step:
            raise ValueError(f"step {self.step} does not divide a day of {self.day}")
        if np.isinf(self.values).any() or (self.values < 0).any():
            raise ValueError("an intensity is negative or infinite")
        self.values.flags.writeable = False

    @classmethod
    def of(cls, slots: Iterable[Intensity], *, day: timedelta = DAY) -> Self:
        """Lay slots of any lengths and order out on one grid.

        The step is the greatest that every slot's start and end fit, at least 5 minutes (of a day of 24 h).
        Where slots overlap, the measured one wins, then the later start, then the one that was fetched later.

        Raises:
            ValueError: There are no slots, or they are of several zones or signals.
        """
        ordered = sorted(slots, key=_rank)
        if not ordered:
            raise ValueError("a series needs at least one slot")
        first = ordered[0]
        if any((slot.zone, slot.signal) != (first.zone, first.signal) for slot in ordered):
            raise ValueError("slots of several zones or signals make no series")
        start, end = min(slot.start for slot in ordered), max(slot.end for slot in ordered)
        step = _step(ordered, start, day)
        values = np.full(-(-(end - start) // step), np.nan)
        for slot in ordered:
            values[_nearest(slot.start - start, step) : _nearest(slot.end - start, step)] = slot.g_per_kwh
        return cls(zone=first.zone, signal=first.signal, start=start, step=step, values=values, day=day)

    @property
    def end(self) -> datetime:
        """End of the last slot."""
        return self.start + len(self.values) * self.step

    @property
    def per_day(self) -> int:
        """Slots of a day."""
        return self.day // self.step

    @property
    def hours(self) -> float:
        """Length of a slot in hours, of which a day has 24."""
        return 24 * (self.step / self.day)

    def index(self, moment: datetime) -> int:
        """Return the number of the slot around *moment*; below 0 before the series."""
        return (moment - self.start) // self.step

    def between(self, start: datetime, end: datetime) -> Self:
        """Return the slots that touch the span from *start* to *end*; what lies outside the series is NaN."""
        first, last = self.index(start), -((self.start - end) // self.step)
        values = np.full(max(0, last - first), np.nan)
        known = slice(max(0, first), max(0, min(len(self.values), last)))
        found = self.values[known]
        values[known.start - first : known.start - first + len(found)] = found
        return type(self)(
            zone=self.zone,
            signal=self.signal,
            start=self.start + first * self.step,
            step=self.step,
            values=values,
            day=self.day,
        )

    def at_step(self, step: timedelta) -> Self:
        """Return the same in slots of another length: the mean over each, unknown where a part of it is."""
        if step == self.step:
            return self
        edges = np.arange(-(-(self.end - self.start) // step) + 1) * (step / self.step)
        known = ~np.isnan(self.values)
        sums, counts = (
            np.diff(np.interp(edges, np.arange(len(row) + 1), np.concatenate(([0.0], np.cumsum(row)))))
            for row in (np.where(known, self.values, 0.0), known)
        )
        full = counts >= step / self.step * (1 - _ROUNDING)
        values = np.where(full, sums / np.maximum(counts, _ROUNDING), np.nan)
        return replace(self, step=step, values=values)


def _rank(slot: Intensity) -> tuple[bool, datetime, datetime]:
    return slot.quality is Quality.ACTUAL, slot.start, slot.fetched_at


def _step(slots: Iterable[Intensity], start: datetime, day: timedelta) -> timedelta:
    fitting = gcd(*((edge - start) // _MICROSECOND for slot in slots for edge in (slot.start, slot.end)))
    step = gcd(fitting, day // _MICROSECOND) * _MICROSECOND
    return max(step, day // _MOST_PER_DAY)


def _nearest(span: timedelta, step: timedelta) -> int:
    return round(span / step)
