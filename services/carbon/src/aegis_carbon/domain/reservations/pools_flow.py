"""Whether work that may be cut into any pieces fits into a pool: exact, and when each of it runs.

A job runs at one place at a time and only within its own time; in a stretch of time with room for m jobs, the
jobs that run there get m times its length. A schedule is a maximum flow from the jobs into such stretches
(Horn, "Some simple scheduling algorithms", 1974): there is one if and only if the flow carries all work, and
within a stretch it is laid out by wrapping the jobs around (McNaughton, "Scheduling with deadlines and loss
functions", 1959). The flow begins with the schedule that there is, so that a new job costs few paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aegis_carbon.domain.fitting import Stretches
from aegis_carbon.domain.reservations.pools_room import Room
from aegis_carbon.domain.ticks import Ticks, joined


class Piecework(NamedTuple):
    """A job that may be cut into any pieces; all in ticks."""

    start: int
    end: int
    length: int
    placed: Stretches


class Division:
    """The jobs of a pool, divided over time.

    Args:
        jobs: Each with the pieces that it has now, which need not fit, nor be enough, nor be any.
        room: What is left by everything else.

    Attributes:
        tight: After `solve` found that they do not fit: the stretches of which more would be needed.
    """

    def __init__(self, jobs: Mapping[str, Piecework], room: Room) -> None:
        self._names: Final = list(jobs)
        self._jobs: Final = list(jobs.values())
        bounds = np.array([(job.start, job.end) for job in self._jobs], np.int64).reshape(-1, 2)
        low, high = bounds.min(initial=2**62), bounds.max(initial=-(2**62))
        inner = room.edges[(room.edges > low) & (room.edges < high)]
        self._edges = np.unique(np.concatenate((bounds.ravel(), inner)))
        lengths = np.diff(self._edges)
        self._slots = np.maximum(0, room.at(self._edges[:-1]))
        within = (self._edges[:-1] >= bounds[:, :1]) & (self._edges[1:] <= bounds[:, 1:])
        self._most = np.where(within & (self._slots > 0), lengths, 0)
        self._room = np.minimum(self._slots, max(1, len(self._jobs))) * lengths
        self._got = np.zeros_like(self._most)
        for number, job in enumerate(self._jobs):
            for begin, stop in job.placed:
                self._got[number] += np.diff(np.clip(self._edges, begin, stop))
        self._before = self._got.copy()
        self._got = np.minimum(self._got, self._most)
        self._trim(np.array([job.length for job in self._jobs], np.int64))
        self._spare = self._room - self._got.sum(axis=0)
        self.tight: Ticks = np.zeros((0, 2), np.int64)

    def solve(self) -> bool:
        """Return whether all of them fit."""
        for number, job in enumerate(self._jobs):
            missing = job.length - int(self._got[number].sum())
            while missing > 0:
                moved = self._augment(number, missing)
                if not moved:
                    return False
                missing -= moved
        return True

    def pieces(self) -> dict[str, Stretches]:
        """Return when each job runs, once they fit; where nothing had to change it runs as before."""
        anew = (self._got != self._before).any(axis=0) | self._crowded()
        rows: list[Stretches] = []
        kept = np.stack((self._edges[:-1], self._edges[1:]), axis=1)[~anew]
        for job in self._jobs:
            old: Stretches = []
            for begin, stop in job.placed:
                parts = np.clip(kept, begin, stop)
                old += [(int(a), int(b)) for a, b in parts[parts[:, 0] < parts[:, 1]]]
            rows.append(old)
        for place in np.flatnonzero(anew).tolist():
            self._lay(place, rows)
        return {name: joined(row) for name, row in zip(self._names, rows, strict=True)}

    def _trim(self, lengths: Ticks) -> None:
        """Take away what is above a job's length, and above the room of a stretch."""
        for number in np.flatnonzero(self._got.sum(axis=1) > lengths).tolist():
            self._got[number] = np.diff(np.minimum(np.cumsum(self._got[number]), lengths[number]), prepend=0)
        for place in np.flatnonzero(self._got.sum(axis=0) > self._room).tolist():
            column = np.minimum(np.cumsum(self._got[:, place]), self._room[place])
            self._got[:, place] = np.diff(column, prepend=0)

    def _augment(self, job: int, most: int) -> int:
        """Find more time for a job, others making way; return how much, 0 if there is none."""
        jobs, places = self._got.shape
        by_job, by_place = np.full(places, -1), np.full(jobs, -1)
        seen = np.zeros(jobs, np.bool_)
        seen[job], reached, layer = True, np.zeros(places, np.bool_), np.array([job])
        while len(layer):
            may = (self._got[layer] < self._most[layer]) & ~reached
            new = np.flatnonzero(may.any(axis=0))
            by_job[new] = layer[may[:, new].argmax(axis=0)]
            reached[new] = True
            if len(new) and (best := new[self._spare[new].argmax()]) is not None and self._spare[best] > 0:
                return self._shift(job, int(best), most, by_job, by_place)
            runs = (self._got[:, new] > 0) & ~seen[:, None]
            layer = np.flatnonzero(runs.any(axis=1)) if len(new) else new
            by_place[layer] = new[runs[layer].argmax(axis=1)] if len(layer) else layer
            seen[layer] = True
        # Everything that is reached is full of work that can go nowhere else.
        self.tight = np.stack((self._edges[:-1], self._edges[1:]), axis=1)[reached]
        return 0

    def _shift(
        self, job: int, last: int, most: int, by_job: NDArray[np.int64], by_place: NDArray[np.int64]
    ) -> int:
        path: list[tuple[int, int]] = []
        place, amount = last, min(most, int(self._spare[last]))
        while True:
            mover = int(by_job[place])
            path.append((mover, place))
            amount = min(amount, int(self._most[mover, place] - self._got[mover, place]))
            if mover == job:
                break
            place = int(by_place[mover])
            amount = min(amount, int(self._got[mover, place]))
        for number, (mover, place) in enumerate(path):
            self._got[mover, place] += amount
            if number + 1 < len(path):
                self._got[mover, path[number + 1][1]] -= amount
        self._spare[last] -= amount
        return amount

    def _crowded(self) -> NDArray[np.bool_]:
        """Return where the pieces as they were have no room at some moment, though there is enough in all."""
        rows = [piece for job in self._jobs for piece in job.placed]
        taken = Room(0, np.array(rows, np.int64).reshape(-1, 2))
        return np.asarray(-taken.leasts(self._edges) > self._slots)

    def _lay(self, place: int, rows: list[Stretches]) -> None:
        """Lay out what runs in a stretch: as before and beside it if that can be, else all anew."""
        start, end = int(self._edges[place]), int(self._edges[place + 1])
        column = self._got[:, place]
        some = np.flatnonzero(column)
        old = {job: _cut(self._jobs[job].placed, start, end, int(column[job])) for job in some.tolist()}
        room = Room(int(self._slots[place]))
        room.take([piece for pieces in old.values() for piece in pieces])
        if len(room.crowded()):
            return self._wrap(start, end, column, rows)
        new: dict[int, Stretches] = {}
        for job in some.tolist():
            missing = int(column[job]) - sum(b - a for a, b in old[job])
            if missing:
                free = room.copy()
                free.take(old[job], 2**40)
                new[job] = _cut(free.gaps(start, end).tolist(), start, end, missing)
                room.take(new[job])
                if sum(b - a for a, b in new[job]) < missing:
                    return self._wrap(start, end, column, rows)
        for job, pieces in old.items():
            rows[job] += pieces + new.get(job, [])
        return None

    @staticmethod
    def _wrap(start: int, end: int, column: Ticks, rows: list[Stretches]) -> None:
        """Lay out all of it: one after another, from one line of the pool to the next."""
        at = start
        for number in np.argsort(-column, kind="stable").tolist():
            amount = int(column[number])
            if not amount:
                break
            over = at + amount - end
            if over <= 0:
                rows[number].append((at, at + amount))
            else:
                rows[number] += [(start, start + over), (at, end)]
            at = start + over if over >= 0 else at + amount


def _cut(rows: Stretches, start: int, end: int, most: int) -> Stretches:
    """Return what of stretches lies between two moments, the first of it up to a length."""
    found: Stretches = []
    for a, b in rows:
        begin, stop = max(a, start), min(b, end)
        stop = min(stop, begin + most)
        if begin < stop:
            found.append((begin, stop))
            most -= stop - begin
    return found
