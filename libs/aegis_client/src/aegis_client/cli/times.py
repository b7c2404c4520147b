"""Durations and moments as they are typed on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Final

from aegis_client.errors import UsageError

WHEN: Final = "DURATION|TIME"
"""What the help calls a moment."""
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_PIECE: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(min|[smhd])\s*")
_SECONDS: Final = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_MAX_S: Final = 10 * 365 * 86400.0
_DAYS: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
_LATE: Final = timedelta(minutes=1)
"""What the clocks of a script and a terminal may differ by before a moment counts as past."""


def duration_s(text: str, option: str) -> float | None:
    """Return `90`, `90s`, `5m`, `2h`, `1h30m` or `1d` in seconds, 0 to 10 years; None for an empty text.

    Raises:
        UsageError: It is no duration; *option* is named.
    """
    if not text:
        return None
    seconds = _length_s(text)
    if seconds is None:
        raise UsageError(f"{option} {text!r} is no duration; for example 90s, 5m, 2h, 1h30m or 1d")
    return seconds


def moment_of(text: str, option: str, *, now: datetime | None = None) -> datetime | None:
    """Return the moment that a text means, with a time zone; None for an empty text.

    A duration, also as `+2h` or `in 2h`, counts from now. A day, `tomorrow` or `2026-12-01`, means its start
    unless a time follows: `tomorrow 06:00`. Without a zone, times are local. `now` is now.

    Raises:
        UsageError: It is no moment; *option* is named.
    """
    if not text:
        return None
    now = now or datetime.now(UTC)
    wanted = text.strip().lower()
    length = _length_s(wanted.removeprefix("in ").removeprefix("+"))
    found = _named(wanted, now.astimezone(), _local) if length is None else now + timedelta(seconds=length)
    if found is None:
        raise UsageError(
            f"{option} {text!r} is no moment; for example 2h (from now), today 18:00, tomorrow 06:00 or "
            "2026-12-01T06:00Z"
        )
    return found


def ahead_of(text: str, option: str, *, now: datetime | None = None) -> datetime | None:
    """Return the moment that a text means as `moment_of` does, which must not be past.

    Raises:
        UsageError: It is no moment, or past by more than a minute; *option* is named.
    """
    now = now or datetime.now(UTC)
    found = moment_of(text, option, now=now)
    if found is not None and found < now - _LATE:
        when = found.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
        raise UsageError(f"{option} {text!r} is past: it means {when}; leave it out to start at once")
    return found


def since_of(text: str, option: str, *, now: datetime | None = None) -> datetime | None:
    """Return the moment that a look back begins, with a time zone; None for an empty text.

    A duration, also as `7d ago`, counts back from now. Days and times without a zone are UTC, as are the days
    of the ledger.

    Raises:
        UsageError: It is no moment; *option* is named.
    """
    if not text:
        return None
    now = now or datetime.now(UTC)
    wanted = text.strip().lower()
    length = _length_s(wanted.removesuffix(" ago"))
    found = _named(wanted, now.astimezone(UTC), _utc) if length is None else now - timedelta(seconds=length)
    if found is None:
        raise UsageError(f"{option} {text!r} is no moment; for example 7d (ago), yesterday or 2026-11-01")
    return found


def _length_s(text: str) -> float | None:
    """Return a duration in seconds, 0 to 10 years; None for what is none."""
    text = text.strip().lower()
    pieces = _PIECE.findall(text)
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    elif pieces and not _PIECE.sub("", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in pieces)
    else:
        return None
    return seconds if seconds <= _MAX_S else None


def _named(text: str, now: datetime, zoned: Callable[[datetime], datetime]) -> datetime | None:
    """Return the moment of a day and a time, of which *zoned* knows the zone if none is named."""
    if text == "now":
        return now
    day, _, clock = text.partition(" ")
    try:
        if day in _DAYS:
            at = time.fromisoformat(clock.strip().upper().zfill(len("06:00"))) if clock else time()
            moment = datetime.combine(now.date() + timedelta(days=_DAYS[day]), at)
        else:
            moment = datetime.fromisoformat(text.upper())
        return (moment if moment.tzinfo else zoned(moment)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _local(moment: datetime) -> datetime:
    return moment.astimezone()


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
