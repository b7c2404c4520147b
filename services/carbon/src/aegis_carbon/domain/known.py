"""Series that somebody gave: what is known of a zone, and by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from aegis_carbon.domain.intensity import Intensity, Quality
from aegis_carbon.domain.timeseries import DAY, IntensitySeries


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Known:
    """Values that somebody gave, with NaN where they did not.

    Attributes:
        series: The values.
        source: Provider.
        quality: How they came about; that of the last of them, where they differ.
        issued_at: When they were given, UTC.
    """

    series: IntensitySeries
    source: str
    quality: Quality
    issued_at: datetime

    @classmethod
    def of(cls, slots: Sequence[Intensity], *, issued_at: datetime, day: timedelta = DAY) -> Known:
        """Make one of slots in any order.

        Raises:
            ValueError: There are none, or they are of several zones or signals.
        """
        last = max(slots, key=lambda slot: slot.start)
        series = IntensitySeries.of(slots, day=day)
        return cls(series=series, source=last.source, quality=last.quality, issued_at=issued_at)

    def between(self, start: datetime, end: datetime) -> Known:
        """Return what is known of the slots that touch the span from *start* to *end*."""
        return replace(self, series=self.series.between(start, min(end, self.series.end)))

    def with_more(self, slots: Sequence[Intensity], *, start: datetime, issued_at: datetime) -> Known:
        """Return what is known from *start* on once *slots* have come, which win over older ones."""
        if not slots:
            return replace(self, series=self.series.between(start, self.series.end), issued_at=issued_at)
        more = Known.of(slots, issued_at=issued_at, day=self.series.day)
        step = min(self.series.step, more.series.step)
        old, new = (series.at_step(step) for series in (self.series, more.series))
        end = max(old.end, new.end)
        grid = old.between(start, end)
        moved = replace(new, start=grid.start + (new.start - grid.start) // step * step)
        came = moved.between(grid.start, grid.end).values
        values = np.where(np.isnan(came), grid.values, came)
        newest = more if new.end >= old.end else self
        return replace(newest, series=replace(grid, values=values), issued_at=issued_at)
