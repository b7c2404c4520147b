"""Capacity pools: every one has a schedule that keeps its capacity, and the deadline of all it has promised.

Pure: who stores reservations makes a `Pool` of those that are open, asks it, and commits what it answers only
if none of them has changed since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from aegis_carbon.domain.fitting import Stretches, divisible, fitted, near
from aegis_carbon.domain.job import Job, Span
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.planner import plan_of
from aegis_carbon.domain.reservations.errors import PoolFull
from aegis_carbon.domain.reservations.pools_claims import Claim, Placement, Repaired
from aegis_carbon.domain.reservations.pools_flow import Piecework
from aegis_carbon.domain.reservations.pools_room import Room
from aegis_carbon.domain.reservations.pools_search import Search
from aegis_carbon.domain.reservations.reservation import deadline_for
from aegis_carbon.domain.ticks import TICK, moment, spans, stretches, tick

_GRAIN: Final = timedelta(minutes=1)
"""To which the earliest finish of what is refused is found; coarser in a pool of several hundred."""
_QUICK: Final = 2
_EFFORT: Final = 4000
"""Claims that are looked at for the earliest finish, about."""
_WORTH_IT: Final = 1e-9


class Pool:
    """A pool with all of its open reservations; its answers also change it.

    Args:
        capacity: Jobs that may run at once. Range: above 0; None is any number.
        claims: What they take. Their placements fit, unless something went otherwise than planned: then
            `repair` comes first.
        name: For people.
    """

    def __init__(self, capacity: int | None, claims: Iterable[Claim] = (), *, name: str = "") -> None:
        self._capacity, self._name = capacity, name
        self._claims = {claim.key: claim for claim in claims}
        # Forced beyond the capacity by a repair: they stay where they are until the next one.
        self._over = set[str]()
        running = stretches(claim.running for claim in self._claims.values() if claim.running)
        placed = stretches(span for claim in self._claims.values() for span in claim.spans)
        self._fixed = Room(capacity, running)
        self._room = Room(capacity, np.concatenate((running, placed)))

    def admit(self, new: Claim) -> dict[str, Placement]:
        """Return where *new* is placed, and where those are that make way for it, by key.

        Raises:
            InfeasibleJob: It could not end by its deadline if it were alone.
            PoolFull: It cannot beside what the pool has promised; `deadline` is one that can be kept.
            InvalidArgument: Its job contradicts itself, or its zones have different signals.
        """
        new.job.check()
        if placement := self._fit(new):
            self._set(new.at(placement))
            return {new.key: placement}
        found = self._search(new)
        if found is None:
            raise self._full(new)
        return self._arranged(new, found)

    def replace(self, key: str, outlooks: Sequence[Outlook]) -> Placement | None:
        """Return the cleanest placement that a reservation could have now; None if it cannot move.

        It stays where it is: whether the gain is worth a change is for the caller, who then says `place`.

        Raises:
            InvalidArgument: Its zones have different signals.
        """
        claim = self._claims[key] = replace(self._claims[key], outlooks=tuple(outlooks))
        if not claim.moves:
            return None
        self._room.give(claim.rows)
        found = self._fit(claim)
        self._room.take(claim.rows)
        return found

    def place(self, key: str, placement: Placement) -> None:
        """Take over a placement that `replace` returned."""
        claim = self._claims[key]
        self._room.give(claim.rows)
        self._set(claim.at(placement))

    def remove(self, key: str) -> None:
        """Give back what a reservation took that was cancelled or has ended."""
        claim = self._claims.pop(key)
        self._room.give(claim.rows)
        if claim.running:
            row = [(tick(claim.running.start), tick(claim.running.end))]
            self._room.give(row)
            self._fixed.give(row)

    def repair(self) -> Repaired:
        """Place anew what does not fit any more, because something ran at another time than planned."""
        self._room, lost = self._fixed.copy(), list[Claim]()
        self._over = set()
        for claim in sorted(self._claims.values(), key=lambda claim: (claim.job.latest_start, claim.key)):
            if claim.moves and not (claim.kept and self._room.fits(claim.rows)):
                lost.append(replace(self._claims.pop(claim.key), spans=()))
            else:
                self._room.take(claim.rows)
        placements: dict[str, Placement] = {}
        for claim in lost:
            if placement := self._fit(claim):
                found = {claim.key: placement}
                self._set(claim.at(placement))
            elif rows := self._search(claim):
                found = self._arranged(claim, rows)
            else:
                found = {claim.key: self._forced(claim)}
                self._over.add(claim.key)
                self._set(claim.at(found[claim.key]))
            placements |= found
        return Repaired(placements, tuple(sorted(self._over)))

    def crowded(self) -> tuple[Span, ...]:
        """Return the times in which more is to run than the capacity allows."""
        return spans(self._room.crowded())

    def _set(self, claim: Claim) -> None:
        self._claims[claim.key] = claim
        self._room.take(claim.rows)

    def _fit(self, claim: Claim) -> Placement | None:
        """Return the cleanest placement in the room that the others leave."""
        job = claim.job
        free = self._room.gaps(tick(job.earliest), tick(job.deadline))
        if not claim.known:
            rows = near(job, free, claim.aim or job.earliest)
            return claim.placed(rows) if rows else None
        choices = [spans(fitted(outlook.series, job, free)) for outlook in claim.outlooks]
        plan = plan_of(claim.outlooks, job, choices)
        return claim.planned(plan.spans, plan) if plan else None

    def _search(self, new: Claim, *, tries: int | None = None) -> dict[str, Stretches] | None:
        """Return a schedule of all that may move, and of *new*."""
        fixed, wholes, pieces = self._fixed.copy(), dict[str, Piecework](), dict[str, Piecework]()
        for key, claim in (self._claims | {new.key: new}).items():
            if key in self._over:
                fixed.take(claim.rows)
            elif claim.moves:
                (pieces if divisible(claim.job) else wholes)[key] = claim.work
        return Search(fixed, wholes, pieces).solve(tries=tries)

    def _arranged(self, new: Claim, found: dict[str, Stretches]) -> dict[str, Placement]:
        """Take over a schedule; what has moved then takes the cleanest place that is left."""
        self._claims[new.key] = new
        moved = [new.key, *(key for key in found if key != new.key and found[key] != self._claims[key].rows)]
        self._room.give([row for key in moved for row in self._claims[key].rows])
        self._room.take([row for key in moved for row in found[key]])
        placements: dict[str, Placement] = {}
        for key in moved:
            claim = self._claims[key] = replace(self._claims[key], spans=spans(found[key]))
            if not claim.known:
                placements[key] = claim.placed(found[key])
                continue
            self._room.give(claim.rows)
            placements[key] = self._best(claim)
            self._set(claim.at(placements[key]))
        return placements

    def _best(self, claim: Claim) -> Placement:
        """Return the cleanest of where it is and where there is room."""
        there, best = claim.placed(claim.rows), self._fit(claim)
        if best is None or there.plan is None or best.plan is None:
            return there
        return best if best.plan.g_per_kwh < there.plan.g_per_kwh - _WORTH_IT else there

    def _forced(self, claim: Claim) -> Placement:
        """Place what has no room by its deadline, where the pool is least full."""
        work = claim.work
        rows = Search(self._room, {}, {}).spot(work, Room(None), gently=True)
        return claim.placed(rows or [(work.start, work.start + work.length)])

    def _full(self, new: Claim) -> PoolFull:
        job, finish = new.job, self._earliest_finish(new)
        deadline = deadline_for(finish, job)
        pool = f"pool {self._name!r}" if self._name else "the pool"
        return PoolFull(
            f"a job of {job.duration} cannot end by {job.deadline.isoformat()}: {pool} runs {self._capacity} "
            f"at once and has {len(self._claims)} reservations; it ends at {finish.isoformat()} at the "
            f"earliest: ask for the deadline {deadline.isoformat()}, or a later one",
            pool=self._name,
            earliest_finish=finish.isoformat(),
            deadline=deadline.isoformat(),
        )

    def _earliest_finish(self, new: Claim) -> datetime:
        """Return the earliest finish with which it would be accepted now, so far as that is soon known."""
        job = new.job
        ever = max(tick(job.deadline), int(self._room.edges[-1])) + job.duration // TICK
        low, high = tick(job.earliest + job.duration), _soonest(job, self._room, ever)
        steps = max(3, _EFFORT // (len(self._claims) + 1))
        while high - low > _GRAIN // TICK and steps:
            steps -= 1
            middle = (low + high) // 2
            asked = replace(new, job=replace(job, deadline=moment(middle)))
            if self._search(asked, tries=_QUICK) is None:
                low = middle
            else:
                high = middle
        return moment(high)


def _soonest(job: Job, room: Room, ever: int) -> int:
    """Return when a job could end if no other moved."""
    length = job.duration // TICK
    if not divisible(job):
        return int(room.gaps(tick(job.earliest), ever, length)[0, 0]) + length
    gaps = room.gaps(tick(job.earliest), ever)
    sums = np.cumsum(gaps[:, 1] - gaps[:, 0])
    last = int(np.searchsorted(sums, length))
    return int(gaps[last, 1] - (sums[last] - length))
