"""A heap whose keys can change their rank or go away."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK: Final = 16


class KeyedHeap(Generic[K]):
    """Keys, lowest rank first; of equal ranks the one that was put first.

    Every operation takes O(log n), amortized: what is out of date stays in the heap until it comes up, or
    until it is more than half of it.
    """

    def __init__(self) -> None:
        self._ranks: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._puts = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, key: K, rank: float) -> None:
        """Add *key*, or give it another rank."""
        self._puts += 1
        self._ranks[key] = (rank, self._puts)
        heappush(self._heap, (rank, self._puts, key))
        if len(self._heap) > 2 * len(self._ranks) + _SLACK:
            self._heap = [(*place, key) for key, place in self._ranks.items()]
            heapify(self._heap)

    def discard(self, key: K) -> None:
        """Take *key* out, if it is in."""
        self._ranks.pop(key, None)

    def first(self) -> K | None:
        """Return the key of the lowest rank, which stays in; None when there is none."""
        while self._heap:
            rank, put, key = self._heap[0]
            if self._ranks.get(key) == (rank, put):
                return key
            heappop(self._heap)
        return None
