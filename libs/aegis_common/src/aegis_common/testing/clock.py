"""A clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis_common.clock import utc_now


@dataclass
class MovedClock:
    """The present time plus an offset, which the test sets."""

    offset: timedelta = timedelta(0)

    def utc(self) -> datetime:
        return utc_now() + self.offset

    def monotonic(self) -> float:
        return 1000 + self.offset.total_seconds()
