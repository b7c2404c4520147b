"""A clock that the test owns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

NOW: Final = datetime(2026, 3, 4, 10, 12, tzinfo=UTC)
"""A Wednesday, in the slot from 10:00 to 10:30."""


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        """Move on by a `timedelta`, for example `minutes=30`."""
        self.now += timedelta(**by)
