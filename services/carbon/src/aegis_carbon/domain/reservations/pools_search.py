"""A schedule for all that a pool has promised: exact where work may be cut, else a bounded search.

What it finds keeps room and deadlines. Work that runs whole has no quick exact test (it is bin packing over
time), so a schedule that exists may not be found; the search is the same for the same pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from aegis_carbon.domain.fitting import Stretches
from aegis_carbon.domain.reservations.pools_flow import Division, Piecework
from aegis_carbon.domain.reservations.pools_room import Room
from aegis_carbon.domain.ticks import Ticks

_MOST_TRIES: Final = 24
_EFFORT: Final = 4000
"""Jobs that are placed in all tries together, about."""


class Search:
    """Places everything anew of a pool that may move.

    Args:
        room: What is left by what does not move.
        wholes: Jobs that run whole, or as they are placed now: start, end and length of each, and its
            stretches now, which need not fit, nor be any.
        pieces: Jobs that may be cut.
    """

    def __init__(self, room: Room, wholes: Mapping[str, Piecework], pieces: Mapping[str, Piecework]) -> None:
        self._fixed = room
        self._wholes, self._pieces = wholes, pieces
        self._full = room.copy()
        for job in (*wholes.values(), *pieces.values()):
            self._full.take(job.placed)

    def solve(self, *, tries: int | None = None) -> dict[str, Stretches] | None:
        """Return the stretches of each job, or None if no schedule was found."""
        if not self._wholes:
            return self._divided(self._fixed)[0]
        count = tries or max(2, min(_MOST_TRIES, _EFFORT // len(self._wholes)))
        # To pack all of it anew takes much longer than to move what is in the way.
        return self._tried(count, keep=True) or self._tried((count + 1) // 2, keep=False)

    def _tried(self, tries: int, *, keep: bool) -> dict[str, Stretches] | None:
        first: list[str] = []
        shut: dict[str, Ticks] = {}
        for _ in range(tries):
            spots, failed, room = self._placed(first, shut, keep=keep)
            if failed is not None:
                if shut.pop(failed, None) is None and first[:1] == [failed]:
                    return None
                # What found no place chooses first the next time.
                first = [failed, *(name for name in first if name != failed)]
                continue
            divided, tight = self._divided(room)
            if divided is not None:
                return spots | divided
            mover = self._in_the_way(spots, tight, room)
            if mover is None:
                return None
            shut[mover] = np.concatenate((shut.get(mover, tight[:0]), tight))
        return None

    def _placed(
        self, first: list[str], shut: Mapping[str, Ticks], *, keep: bool
    ) -> tuple[dict[str, Stretches], str | None, Room]:
        """Place what runs whole, some of it first; return what found no place, if one did not."""
        room, spots = self._fixed.copy(), dict[str, Stretches]()
        rest = sorted((name for name in self._wholes if name not in first), key=self._urgency)
        if not keep:
            return spots, self._place([*first, *rest], room, spots, shut, gently=False), room
        failed = self._place(first, room, spots, shut, gently=True)
        if failed is not None:
            return spots, failed, room
        stay = {name for name in rest if self._wholes[name].placed and name not in shut}
        room.take([row for name in stay for row in self._wholes[name].placed])
        while len(crowd := room.crowded()):
            moment = int(crowd[0, 0])
            there = [name for name in rest if name in stay and self._at(name, moment)]
            if not there:
                break
            stay.remove(there[-1])
            room.give(self._wholes[there[-1]].placed)
        spots |= {name: self._wholes[name].placed for name in stay}
        moving = [name for name in rest if name not in stay]
        return spots, self._place(moving, room, spots, shut, gently=True), room

    def _place(
        self,
        names: list[str],
        room: Room,
        spots: dict[str, Stretches],
        shut: Mapping[str, Ticks],
        *,
        gently: bool,
    ) -> str | None:
        for name in names:
            found = self.spot(self._wholes[name], room, shut.get(name), gently=gently)
            if not found:
                return name
            spots[name] = found
            room.take(found)
        return None

    def _urgency(self, name: str) -> tuple[int, str]:
        return self._wholes[name].end - self._wholes[name].length, name

    def _at(self, name: str, moment: int) -> bool:
        return any(start <= moment < end for start, end in self._wholes[name].placed)

    def spot(self, job: Piecework, room: Room, shut: Ticks | None = None, *, gently: bool) -> Stretches:
        """Return where a job runs whole: where it disturbs the others least, or as early as can be.

        Args:
            job: The job.
            room: Where it may run.
            shut: Stretches in which it may not.
            gently: Whether it looks at the others.
        """
        if shut is not None:
            room = room.copy()
            room.take(shut.tolist(), 2**41)
        gaps = room.gaps(job.start, job.end, job.length)
        if not len(gaps):
            return []
        first, last = gaps[:, 0], gaps[:, 1] - job.length
        if not gently:
            return [(int(first[0]), int(first[0]) + job.length)]
        edges = self._full.edges
        starts = np.sort(np.concatenate((edges, edges - job.length)))
        place = np.searchsorted(first, starts, "right") - 1
        starts = np.unique(np.concatenate((first, last, starts[(place >= 0) & (starts <= last[place])])))
        begin = int(starts[self._full.full_time(starts, starts + job.length).argmin()])
        return [(begin, begin + job.length)]

    def _divided(self, room: Room) -> tuple[dict[str, Stretches] | None, Ticks]:
        division = Division(self._pieces, room)
        return (division.pieces(), division.tight) if division.solve() else (None, division.tight)

    def _in_the_way(self, spots: Mapping[str, Stretches], tight: Ticks, room: Room) -> str | None:
        """Return the job that takes most of the time that is short, and could run elsewhere."""
        taken = {
            name: sum(int(np.maximum(0, np.diff(np.clip(tight, *row)))[:, 0].sum()) for row in rows)
            for name, rows in spots.items()
        }
        for name in sorted((name for name in taken if taken[name]), key=taken.__getitem__, reverse=True):
            without = room.copy()
            without.give(spots[name])
            if self.spot(self._wholes[name], without, tight, gently=False):
                return name
        return None
