"""Carbon integrated over time: energy, spread evenly over the time in which work ran, times intensity."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.ledger.usage import Estimate, Span


class IntensityKind(IntEnum):
    """How an intensity is known, best first."""

    ACTUAL = 1
    ESTIMATED = 2
    FORECAST = 3
    INHOUSE = 4
    STATIC = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One intensity over a half-open time.

    Attributes:
        g_per_kwh: With its interval.
        settled: Whether it comes from the provider's past, and not from what was said beforehand.
    """

    start: datetime
    end: datetime
    g_per_kwh: Estimate
    kind: IntensityKind
    provider: str
    settled: bool = False


class Evidence:
    """What is known of a zone: pieces that do not overlap, with gaps between them where nothing is.

    Args:
        layers: Pieces in the order of preference of the layers: a later one counts only where the earlier
            ones have a gap. Within a layer, of pieces that overlap the earlier one counts.
        signal: What they are averages of.
    """

    def __init__(self, layers: Iterable[Iterable[Piece]], signal: Signal) -> None:
        self.signal = signal
        self._pieces: list[Piece] = []
        for layer in layers:
            for piece in layer:
                self._add(piece)
        self._starts = [piece.start for piece in self._pieces]

    def during(self, start: datetime, end: datetime) -> Iterator[Piece]:
        """Yield what is known of the time from *start* to *end*, cut to it."""
        for piece in self._pieces[max(0, bisect_right(self._starts, start) - 1) :]:
            if piece.start >= end:
                return
            if piece.end > start:
                yield replace(piece, start=max(start, piece.start), end=min(end, piece.end))

    def _add(self, piece: Piece) -> None:
        first = bisect_right(self._pieces, piece.start, key=lambda known: known.end)
        start, place = piece.start, first
        fresh, known = [], self._pieces
        while place < len(known) and known[place].start < piece.end:
            if start < known[place].start:
                fresh.append(replace(piece, start=start, end=known[place].start))
            fresh.append(known[place])
            start = max(start, known[place].end)
            place += 1
        if start < piece.end:
            fresh.append(replace(piece, start=start))
        known[first:place] = fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Emissions:
    """What some energy emitted.

    Attributes:
        grams: Of the energy whose intensity is known; None when none is.
        unknown_kwh: Energy whose intensity is not known.
        kind: The worst of those used; None when nothing is known.
        providers: In order of name.
        settled: Whether all of it rests on the past as its provider tells it.
    """

    grams: Estimate | None
    unknown_kwh: float
    kind: IntensityKind | None
    providers: tuple[str, ...]
    settled: bool


def emissions(kwh: Estimate, spans: Sequence[Span], evidence: Evidence) -> Emissions:
    """Return what *kwh* emitted, spread evenly over *spans*."""
    total = sum((end - start for start, end in spans), timedelta(0))
    grams, known = Estimate(0.0, 0.0, 0.0), timedelta(0)
    used: list[Piece] = []
    for span in spans:
        for piece in evidence.during(*span):
            length = piece.end - piece.start
            share = length / total
            part = Estimate(kwh.value * share, kwh.low * share, kwh.high * share)
            grams, known = grams + part.times(piece.g_per_kwh), known + length
            used.append(piece)
    return Emissions(
        grams=grams if used else None,
        unknown_kwh=kwh.value * ((total - known) / total),
        kind=max((piece.kind for piece in used), default=None),
        providers=tuple(sorted({piece.provider for piece in used})),
        settled=known == total and all(piece.settled for piece in used),
    )
