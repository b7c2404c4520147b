"""The room that is left in a pool over time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from aegis_carbon.domain.ticks import Ticks

_EVER: Final = np.int64(2**62)
_UNBOUNDED: Final = 2**40


class Room:
    """How many more jobs may run at once, at each moment.

    Args:
        capacity: Jobs that may run at once; None is any number.
        taken: Stretches that are taken, one row of ticks each; they may be more than the capacity allows.
    """

    def __init__(self, capacity: int | None, taken: Ticks | None = None) -> None:
        self._edges = np.array([-_EVER, _EVER])
        self._free = np.array([_UNBOUNDED if capacity is None else capacity])
        if taken is None or not len(taken):
            return
        edges = np.unique(taken)
        self._edges = np.concatenate(([-_EVER], edges, [_EVER]))
        self._free = np.full(len(edges) + 1, self._free[0]) - self._running(self._edges, taken)

    @property
    def edges(self) -> Ticks:
        """Moments at which the room changes."""
        return self._edges[1:-1]

    def copy(self) -> Room:
        other = Room(None)
        other._edges, other._free = self._edges, self._free
        return other

    def take(self, rows: Iterable[tuple[int, int]], count: int = 1) -> None:
        """Take stretches; a *count* of -1 gives them back."""
        taken = np.asarray(list(rows), np.int64).reshape(-1, 2)
        if len(taken) == 1:
            self._take_one(int(taken[0, 0]), int(taken[0, 1]), count)
        if len(taken) <= 1:
            return
        new = np.unique(taken)
        new = new[self._edges[np.searchsorted(self._edges, new)] != new]
        places = np.searchsorted(self._edges, new)
        edges, free = (
            np.insert(self._edges, places, new),
            np.insert(self._free, places, self._free[places - 1]),
        )
        self._edges, self._free = edges, free - count * self._running(edges, taken)

    def _take_one(self, start: int, end: int, count: int) -> None:
        first, last = self._cut(start), self._cut(end)
        self._free = self._free.copy()  # a copy of this room may share it
        self._free[first:last] -= count

    def _cut(self, moment: int) -> int:
        """Return the place of the part of time that begins at *moment*, which is made one if it is none."""
        edges, free = self._edges, self._free
        place = int(np.searchsorted(edges, moment))
        if edges[place] != moment:
            self._edges = np.concatenate((edges[:place], [moment], edges[place:]))
            self._free = np.concatenate((free[:place], free[place - 1 : place], free[place:]))
        return place

    @staticmethod
    def _running(edges: Ticks, taken: Ticks) -> Ticks:
        """Return how many of the stretches run from each edge to the next; each begins and ends at edges."""
        starts, ends = (
            np.bincount(np.searchsorted(edges, column), minlength=len(edges)) for column in taken.T
        )
        return np.asarray(np.cumsum(starts - ends)[:-1])

    def give(self, rows: Iterable[tuple[int, int]]) -> None:
        """Give stretches back."""
        self.take(rows, -1)

    def gaps(self, start: int, end: int, least: int = 1) -> Ticks:
        """Return the longest stretches from *start* to *end* with room, those of at least a length."""
        if end <= start:
            return np.zeros((0, 2), np.int64)
        first = int(np.searchsorted(self._edges, start, "right")) - 1
        last = int(np.searchsorted(self._edges, end, "left"))
        some = np.concatenate(([False], self._free[first:last] > 0, [False]))
        turns = self._edges[first + np.flatnonzero(some[1:] != some[:-1])]
        found: Ticks = np.clip(turns.reshape(-1, 2), start, end)
        return np.asarray(found[found[:, 1] - found[:, 0] >= least])

    def fits(self, rows: Iterable[tuple[int, int]]) -> bool:
        """Return whether there is room for stretches that do not overlap."""
        return all(self.least(start, end) > 0 for start, end in rows)

    def least(self, start: int, end: int) -> int:
        """Return the least room from *start* to *end*; below 0 where too much is taken."""
        first = int(np.searchsorted(self._edges, start, "right")) - 1
        last = int(np.searchsorted(self._edges, end, "left"))
        return int(self._free[first : max(last, first + 1)].min())

    def leasts(self, edges: Ticks) -> Ticks:
        """Return the least room from each edge to the next."""
        if len(edges) < 2:
            return edges[:0]
        cuts = np.union1d(edges, self.edges)
        return np.asarray(np.minimum.reduceat(self.at(cuts), np.searchsorted(cuts, edges[:-1])))

    def at(self, moments: Ticks) -> Ticks:
        """Return the room from each moment on."""
        return np.asarray(self._free[np.searchsorted(self._edges, moments, "right") - 1])

    def full_time(self, starts: Ticks, ends: Ticks) -> Ticks:
        """Return how long there is no room between each start and its end."""
        edges = self._edges[1:-1]
        if len(edges) < 2:
            return np.zeros_like(starts)
        full = np.where(self._free[1:-1] <= 0, np.diff(edges), 0)
        sums = np.concatenate(([0], np.cumsum(full)))

        def until(moments: Ticks) -> Ticks:
            place = np.clip(np.searchsorted(edges, moments, "right") - 1, 0, len(full) - 1)
            part = np.clip(moments - edges[place], 0, np.diff(edges)[place])
            return sums[place] + np.where(full[place] > 0, part, 0)

        return np.asarray(until(ends) - until(starts))

    def crowded(self) -> Ticks:
        """Return the stretches in which more is taken than there is."""
        over = np.concatenate(([False], self._free < 0, [False]))
        return np.asarray(self._edges[np.flatnonzero(over[1:] != over[:-1])].reshape(-1, 2))
