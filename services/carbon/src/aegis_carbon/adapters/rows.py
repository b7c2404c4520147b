"""From the rows of an answer to slots: what the readers of several APIs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from aegis_carbon.domain.intensity import Intensity, Quality
from aegis_carbon.domain.providers import ProviderError

Slot = TypeVar("Slot", bound=Intensity)

GRAMS_PER_POUND: Final = 453.59237
UNITS: Final = {"g/kWh": 1.0, "kg/MWh": 1.0, "lb/MWh": GRAMS_PER_POUND / 1000}
"""Factor to gCO2e/kWh by unit."""
_MILLISECONDS_FROM: Final = 1e11
"""As seconds, this is the year 5138."""


def slots(rows: Sequence[Any], read: Callable[[Any], Slot | None]) -> list[Slot]:
    """Return the slots of *rows* that have a value; a broken row does not spoil the others.

    Args:
        rows: Of an answer.
        read: Makes a slot of a row, or None of one without a value; raises ValueError, LookupError or
            the like for one that it cannot read.

    Raises:
        ProviderError: There are rows, and none of them is in the shape that *read* knows.
    """
    found, broken = [], 0
    for row in rows:
        try:
            slot = read(row)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError):
            broken += 1
        else:
            found += [slot] if slot else []
    if rows and broken == len(rows):
        raise ProviderError("MALFORMED", f"no readable row among {broken}: {str(rows[0])[:80]!r}")
    return found


def number(value: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def moment(value: Any) -> datetime:
    """Return a time in UTC: ISO 8601, which is UTC without an offset, or seconds or milliseconds since 1970.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str):
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    seconds = number(value)
    return datetime.fromtimestamp(seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds, UTC)


def spans(start: datetime, end: datetime, longest: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Yield the span from *start* to *end* in pieces of *longest* at most."""
    while start < end:
        until = min(end, start + longest)
        yield start, until
        start = until


def passed(found: Iterable[Slot], start: datetime, now: datetime) -> list[Slot]:
    """Return the slots that end after *start* and have passed."""
    return [slot for slot in found if start < slot.end <= now]


def present(found: Iterable[Slot], now: datetime) -> Slot | None:
    """Return the slot around *now*, else the one nearest to it; the lookup judges whether that is usable.

    Of overlapping slots the later start wins, and of duplicates the measured one.
    """

    def distance(slot: Slot) -> timedelta:
        return timedelta(0) if slot.covers(now) else max(slot.start - now, now - slot.end)

    def rank(slot: Slot) -> tuple[timedelta, timedelta, bool]:
        return distance(slot), now - slot.start, slot.quality is not Quality.ACTUAL

    return min(found, key=rank, default=None)
