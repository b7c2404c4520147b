"""How long calls of one tool take: measured, and honest about what is not."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final

KEPT: Final = 64
ENOUGH: Final = 8
FRESH_S: Final = 60.0
_TYPICAL: Final = 0.9


class Durations:
    """Measured times of the last calls, at most `KEPT` of them and none that is older than `FRESH_S`.

    While there are fewer than `ENOUGH`, nothing is known: the first calls say little about the next.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float, *, now: float) -> None:
        """Count a call that took so long."""
        if len(self._recent) == KEPT:
            self._drop_oldest()
        self._recent.append((now, seconds))
        insort(self._sorted, seconds)

    def quantile(self, share: float, *, now: float) -> float | None:
        """Return the time within which *share* of the calls, 0 to 1, ended; None while nothing is known."""
        if not self._known(now):
            return None
        return self._sorted[int(share * (len(self._sorted) - 1))]

    def mean(self, *, now: float) -> float | None:
        """Return the mean without the longest tenth, which says little of the next; None as in `quantile`."""
        if not self._known(now):
            return None
        typical = self._sorted[: int(_TYPICAL * len(self._sorted)) or 1]
        return sum(typical) / len(typical)

    def _known(self, now: float) -> bool:
        while self._recent and self._recent[0][0] < now - FRESH_S:
            self._drop_oldest()
        return len(self._sorted) >= ENOUGH

    def _drop_oldest(self) -> None:
        _, seconds = self._recent.popleft()
        del self._sorted[bisect_left(self._sorted, seconds)]
