"""Carbon intensity of one zone in one half-open slot of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import ClassVar, Final

LONGEST_SLOT: Final = timedelta(days=1)


class Signal(Enum):
    """What an intensity is an average of; values of different signals cannot be compared."""

    AVERAGE = "average"
    MARGINAL = "marginal"


class Quality(Enum):
    """How an intensity came about, best first."""

    ACTUAL = "actual"
    FORECAST = "forecast"
    STALE = "stale"
    SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class Intensity:
    """One value; use `AverageIntensity` or `MarginalIntensity`, which are never equal and have no order.

    Attributes:
        zone: Zone id, for example `GB`.
        g_per_kwh: Grams of CO2-equivalent per kWh, finite, 0 and up. A 0 is a measured 0, never a gap.
        start: Start of the slot, inclusive, UTC.
        end: End of the slot, exclusive, UTC; at most a day after the start.
        quality: How the value came about.
        source: Provider that gave it.
        fetched_at: When the provider gave it, UTC.

    Raises:
        ValueError: A value is outside its range.
    """

    signal: ClassVar[Signal]

    zone: str
    g_per_kwh: float
    start: datetime
    end: datetime
    quality: Quality
    source: str
    fetched_at: datetime

    def __post_init__(self) -> None:
        if not (math.isfinite(self.g_per_kwh) and self.g_per_kwh >= 0):
            raise ValueError(f"intensity {self.g_per_kwh} is not a finite number of at least 0")
        if not timedelta(0) < self.end - self.start <= LONGEST_SLOT:
            raise ValueError(f"slot {self.start} to {self.end} is empty or longer than a day")

    def covers(self, moment: datetime) -> bool:
        """Return whether *moment* lies in the slot."""
        return self.start <= moment < self.end

    def age(self, now: datetime) -> timedelta:
        """Return the time since the value was fetched, at least 0."""
        return max(timedelta(0), now - self.fetched_at)


class AverageIntensity(Intensity):
    """Emissions of all generation, divided by the energy."""

    __slots__ = ()
    signal = Signal.AVERAGE


class MarginalIntensity(Intensity):
    """Emissions of the plant that would serve one more kWh."""

    __slots__ = ()
    signal = Signal.MARGINAL


INTENSITY_TYPES: Final[dict[Signal, type[Intensity]]] = {
    Signal.AVERAGE: AverageIntensity,
    Signal.MARGINAL: MarginalIntensity,
}
