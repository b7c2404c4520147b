"""By what rule a check decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

DEFAULT_MIN_SAVING: Final = 0.05


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """Start at or below a fixed intensity.

    Attributes:
        max_g_per_kwh: In gCO2e/kWh; None is the zone's own threshold.
    """

    max_g_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class PercentileRule:
    """Start at or below a percentile of the last seven days.

    Attributes:
        percentile: Above 0, at most 100.
    """

    percentile: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRule:
    """Start unless waiting for a cleaner window, which still ends in time, saves enough.

    Attributes:
        duration: Time that the work runs.
        deadline: Moment by which it has ended; None where `max_wait` counts.
        max_wait: Longest time that its start may wait; None is a day.
        min_saving: Least share of its emissions for which it waits; 0 to 1.
    """

    duration: timedelta
    deadline: datetime | None = None
    max_wait: timedelta | None = None
    min_saving: float = DEFAULT_MIN_SAVING


Rule = ThresholdRule | PercentileRule | ForecastRule

BY_ZONE: Final = ThresholdRule()
"""The zone's own threshold."""
