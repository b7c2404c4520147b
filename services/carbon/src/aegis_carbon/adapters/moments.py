"""Moments and spans of time as Redis has them: milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def ms(moment: datetime) -> int:
    """Return the milliseconds since 1970 (UTC)."""
    return round(moment.timestamp() * 1000)


def moment_of(milliseconds: float) -> datetime:
    """Return the moment so many milliseconds after 1970 (UTC)."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds(span: timedelta) -> int:
    """Return the whole milliseconds of *span*."""
    return span // timedelta(milliseconds=1)
