"""Moments as whole microseconds: stretches of time that add up exactly, in arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aegis_carbon.domain.job import Span

Ticks = NDArray[np.int64]
"""Microseconds since 1970; stretches have one row each: start and end."""

TICK: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def tick(moment: datetime) -> int:
    """Return a moment (UTC) in microseconds since 1970."""
    return (moment - _EPOCH) // TICK


def moment(ticks: int) -> datetime:
    """Return the moment of so many microseconds since 1970."""
    return _EPOCH + int(ticks) * TICK


def stretches(spans: Iterable[Span]) -> Ticks:
    """Return spans as rows of ticks."""
    return np.array([(tick(span.start), tick(span.end)) for span in spans], np.int64).reshape(-1, 2)


def spans(rows: Ticks | Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Return rows of ticks as spans, those that touch as one, in the order of time."""
    return tuple(Span(moment(start), moment(end)) for start, end in joined(rows))


def joined(rows: Ticks | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return stretches that do not overlap in the order of time, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted((int(start), int(end)) for start, end in rows):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        elif start < end:
            found.append((start, end))
    return found
