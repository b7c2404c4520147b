"""The rule that says whether work should start now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from aegis_carbon.domain.intensity import Intensity, Quality

DEFAULT_THRESHOLD: Final = 150.0
"""Highest intensity at which work starts when nobody says otherwise, in gCO2e/kWh."""
MAX_THRESHOLD: Final = 5000.0
SHORTEST_WAIT: Final = timedelta(seconds=30)
LONGEST_WAIT: Final = timedelta(hours=1)
WAIT_WITHOUT_DATA: Final = timedelta(seconds=60)


class OnMissing(Enum):
    """What to decide when there is no intensity at all."""

    RUN_NOW = "run_now"
    WAIT = "wait"


class Verdict(Enum):
    RUN_NOW = "run_now"
    WAIT = "wait"


class Reason(Enum):
    """Why a decision was made."""

    BELOW_THRESHOLD = "below_threshold"
    ABOVE_THRESHOLD = "above_threshold"
    NO_DATA = "no_data"
    BELOW_PERCENTILE = "below_percentile"
    ABOVE_PERCENTILE = "above_percentile"
    NO_BETTER_WINDOW = "no_better_window"
    BETTER_WINDOW = "better_window"
    LATEST_START = "latest_start"


@dataclass(frozen=True, slots=True)
class Window:
    """A cleaner time to come.

    Attributes:
        start: Start, UTC.
        end: End.
        g_per_kwh: Expected mean intensity.
    """

    start: datetime
    end: datetime
    g_per_kwh: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a check and what it rests on; true when work may start.

    Attributes:
        verdict: Start now, or wait.
        reason: Why.
        zone: Zone id.
        threshold_g_per_kwh: The threshold used; for a percentile, its value; 0 for a rule without one.
        decided_at: When, UTC.
        intensity: The intensity used; None when there was none.
        retry_after: When to ask again; set only for a wait.
        window: The next good time; set only for a wait, where a forecast knows of one.
    """

    verdict: Verdict
    reason: Reason
    zone: str
    threshold_g_per_kwh: float
    decided_at: datetime
    intensity: Intensity | None = None
    retry_after: timedelta | None = None
    window: Window | None = None

    def __bool__(self) -> bool:
        return self.verdict is Verdict.RUN_NOW

    @property
    def value(self) -> float | None:
        """The intensity used, in gCO2e/kWh; None when there was none."""
        return self.intensity.g_per_kwh if self.intensity else None

    @property
    def quality(self) -> Quality | None:
        return self.intensity.quality if self.intensity else None

    @property
    def source(self) -> str | None:
        """Provider of the intensity; None when there was none."""
        return self.intensity.source if self.intensity else None

    @property
    def age(self) -> timedelta | None:
        """Time since the intensity was fetched; None when there was none."""
        return self.intensity.age(self.decided_at) if self.intensity else None


def decide(
    zone: str,
    intensity: Intensity | None,
    *,
    threshold_g_per_kwh: float,
    on_missing: OnMissing,
    now: datetime,
) -> Decision:
    """Decide for *zone*: start at or below the threshold, wait above it, follow *on_missing* without data."""
    if intensity is None:
        verdict, reason = Verdict(on_missing.value), Reason.NO_DATA
    elif intensity.g_per_kwh <= threshold_g_per_kwh:
        verdict, reason = Verdict.RUN_NOW, Reason.BELOW_THRESHOLD
    else:
        verdict, reason = Verdict.WAIT, Reason.ABOVE_THRESHOLD
    wait = _wait(intensity, now) if verdict is Verdict.WAIT else None
    return Decision(verdict, reason, zone, threshold_g_per_kwh, now, intensity, wait)


def until(start: datetime, now: datetime) -> timedelta:
    """Return when to ask again for something that is to start at *start*."""
    return min(LONGEST_WAIT, max(SHORTEST_WAIT, start - now))


def _wait(intensity: Intensity | None, now: datetime) -> timedelta:
    """The value cannot change before its slot ends, so asking earlier is useless."""
    if intensity is None:
        return WAIT_WITHOUT_DATA
    return min(LONGEST_WAIT, max(SHORTEST_WAIT, intensity.end - now))
