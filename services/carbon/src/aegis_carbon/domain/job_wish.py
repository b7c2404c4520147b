"""What the annotations of a Kubernetes Job ask for: when it has to end, how long it runs, and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from aegis_common.errors import InvalidArgument

PREFIX: Final = "aegis.dev/"
ON_MISSING: Final = ("run_now", "run_at_latest_start", "hold")
MAX_TIME: Final = timedelta(days=7)
MAX_ZONES: Final = 32

WISHES: Final = frozenset({"deadline", "duration", "zone", "interruptible", "min-chunk", "pool"}) | {
    "on-missing",
    "max-hold",
}
"""Annotations that mean something, without the prefix."""
_TIME: Final = re.compile(r"(?=\d)(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")
_ZONE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_POOL: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_TIME_FORM: Final = "write a time as 8h, 90m or 1d12h, above 0 and at most 7d"

T = TypeVar("T")


class InvalidAnnotation(InvalidArgument):
    """An annotation cannot be followed; the message names it, its value, and what to write."""

    reason = "INVALID_ANNOTATION"


@dataclass(frozen=True, slots=True)
class JobWish:
    """What a Job asks for.

    Attributes:
        deadline: Moment by which it has ended (UTC), if no later than its duration allows.
        duration: Time that it runs. Range: above 0, at most 7 days.
        zones: Names of zones, the home first; empty is the deployment's default.
        interruptible: It may be stopped and goes on from a checkpoint: suspending a Job deletes its pods.
        min_chunk: Shortest time between a start and the next stop; None is any.
        pool: Pool whose capacity it takes; empty takes none.
        on_missing: One of `ON_MISSING`.
        max_hold: Longest wait from its creation with `hold`; None with the others.
    """

    deadline: datetime
    duration: timedelta
    zones: tuple[str, ...] = ()
    interruptible: bool = False
    min_chunk: timedelta | None = None
    pool: str = ""
    on_missing: str = "run_now"
    max_hold: timedelta | None = None

    def latest_start(self, margin: timedelta) -> datetime:
        """Return the last start by which it still ends in time, less *margin*, known without any service."""
        return self.deadline - self.duration - margin


def is_wish(annotations: Mapping[str, str]) -> bool:
    """Return whether a Job with *annotations* asks for a place in time at all."""
    return any(PREFIX + name in annotations for name in ("deadline", "duration"))


def job_wish(annotations: Mapping[str, str], *, created: datetime) -> JobWish:
    """Read the annotations of a Job; those without our prefix are another's.

    Args:
        annotations: `metadata.annotations` of the Job.
        created: `metadata.creationTimestamp` (UTC), from which a deadline like `8h` counts.

    Raises:
        InvalidAnnotation: One is missing, cannot be read, or contradicts another.
    """
    deadline = _required(annotations, "deadline", lambda text: _deadline(text, created))
    duration = _required(annotations, "duration", _time)
    if created + duration > deadline:
        raise _wrong(
            annotations, "deadline", f"it lies less than the duration ({duration}) after the creation"
        )
    if deadline > created + MAX_TIME:
        raise _wrong(annotations, "deadline", "it lies more than 7 days after the creation")
    interruptible = _optional(annotations, "interruptible", _flag) or False
    min_chunk = _optional(annotations, "min-chunk", _time)
    if min_chunk is not None and not interruptible:
        raise _wrong(annotations, "min-chunk", f'it needs {PREFIX}interruptible: "true"')
    on_missing = _optional(annotations, "on-missing", _on_missing) or ON_MISSING[0]
    max_hold = _optional(annotations, "max-hold", _time)
    if (on_missing == "hold") != (max_hold is not None):
        raise _wrong(annotations, "max-hold", f"it goes with {PREFIX}on-missing: hold, and only with that")
    return JobWish(
        deadline=deadline,
        duration=duration,
        zones=_optional(annotations, "zone", _zones) or (),
        interruptible=interruptible,
        min_chunk=min_chunk,
        pool=_optional(annotations, "pool", _pool) or "",
        on_missing=on_missing,
        max_hold=max_hold,
    )


def unknown_wishes(annotations: Mapping[str, str], *, written: frozenset[str]) -> list[str]:
    """Return the annotations with our prefix that mean nothing, a misspelt one above all.

    Args:
        annotations: `metadata.annotations` of the Job.
        written: Names, without the prefix, that the controller writes itself.
    """
    ours = (name.removeprefix(PREFIX) for name in annotations if name.startswith(PREFIX))
    return sorted(PREFIX + name for name in ours if name not in WISHES | written)


def _required(annotations: Mapping[str, str], name: str, read: Callable[[str], T]) -> T:
    value = _optional(annotations, name, read)
    if value is None:
        raise InvalidAnnotation(f"{PREFIX}{name} is missing; set it", annotation=PREFIX + name)
    return value


def _optional(annotations: Mapping[str, str], name: str, read: Callable[[str], T]) -> T | None:
    if PREFIX + name not in annotations:
        return None
    try:
        return read(annotations[PREFIX + name].strip())
    except ValueError as error:
        raise _wrong(annotations, name, str(error)) from None


def _wrong(annotations: Mapping[str, str], name: str, why: str) -> InvalidAnnotation:
    value = annotations.get(PREFIX + name, "")[:100]
    return InvalidAnnotation(f"{PREFIX}{name}: {value!r}: {why}", annotation=PREFIX + name, value=value)


def _time(text: str) -> timedelta:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(_TIME_FORM)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    time = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta(0) < time <= MAX_TIME:
        raise ValueError(_TIME_FORM)
    return time


def _deadline(text: str, created: datetime) -> datetime:
    if _TIME.fullmatch(text) is not None:
        return created + _time(text)
    try:
        moment = datetime.fromisoformat(text)
        utc = moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        utc = None
    if utc is None:
        raise ValueError(
            "write a moment with its offset, as 2026-12-01T06:00:00Z, or a time from the creation, as 8h"
        )
    return utc


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError('write "true" or "false"')
    return text == "true"


def _zones(text: str) -> tuple[str, ...]:
    zones = tuple(zone.strip() for zone in text.split(","))
    if not all(_ZONE.fullmatch(zone) for zone in zones):
        raise ValueError("write zones separated by commas, as DE,FR")
    if len(set(zones)) != len(zones) or len(zones) > MAX_ZONES:
        raise ValueError(f"write each zone once, {MAX_ZONES} at most")
    return zones


def _pool(text: str) -> str:
    if _POOL.fullmatch(text) is None:
        raise ValueError(
            "write lower-case letters, digits and hyphens, a letter first, 63 characters at most"
        )
    return text


def _on_missing(text: str) -> str:
    if text not in ON_MISSING:
        raise ValueError(f"write one of {', '.join(ON_MISSING)}")
    return text
