"""Changes reservations: each together with the schedule of its pool, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.job import Job, Span
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.errors import ReservationBusy, UnknownReservation
from aegis_carbon.domain.reservations.placing import mark_of, placed, replanned, without_data
from aegis_carbon.domain.reservations.pools import Pool
from aegis_carbon.domain.reservations.pools_claims import Claim, Placement
from aegis_carbon.domain.reservations.reservation import NO_TIME, WAITS, Reservation, State
from aegis_carbon.domain.reservations.store import (
    Outcome,
    Ref,
    ReservationObserver,
    ReservationStore,
)
from aegis_common.clock import Clock

_TRIES: Final = 20

Change = Callable[[Reservation, datetime], Reservation | None]
"""What becomes of a reservation at a moment; None: nothing."""
_Members = Mapping[str, Reservation]
_Work = Callable[[Reservation, _Members, datetime], list[Reservation]]
"""What is to be written of a reservation and the others of its pool; the reservation stands first."""


class Keeper:
    """Keeps every pool's schedule: all that is open ends by its deadline, within the capacity.

    Args:
        store: Where reservations are kept.
        pools: How many reservations of each pool may run at once.
        keep: How long an ended one is kept.
        clock: Present time.
        observer: Counts what was written.
    """

    def __init__(
        self,
        store: ReservationStore,
        pools: Mapping[str, int],
        *,
        keep: timedelta,
        clock: Clock,
        observer: ReservationObserver,
    ) -> None:
        self._store = store
        self._pools = pools
        self._keep = keep
        self._clock = clock
        self._observer = observer

    async def admit(
        self, item: Reservation, outlooks: Sequence[Outlook], *, digest: str
    ) -> tuple[Outcome, Reservation]:
        """Place a new reservation and write it; begin its work if its time has come.

        Args:
            item: The reservation, without spans.
            outlooks: Of its zones; nothing where the grid is not known.
            digest: Tells what was asked for.

        Raises:
            InfeasibleJob: It cannot end by its deadline; `earliest_finish` says by when it could.
            InvalidArgument: Its zones have different signals.
            ReservationBusy: Others change the pool all the time.
        """
        for _ in range(_TRIES):
            pool = await self._store.pool(item.pool) if item.pool else None
            now = self._clock()
            before = {} if pool is None else {member.member: member for member in pool.members}
            new, moved = await asyncio.to_thread(self._admitted, item, outlooks, before, now)
            if new.plan is None:
                new = replace(new, message=machine.no_data(new))
            new = self._advanced(new, now)
            outcome = await self._written(
                {**before, item.member: item},
                [new, *moved],
                now=now,
                pool=None if pool is None else pool.revision,
                new=digest,
            )
            if outcome is not Outcome.OVERTAKEN:
                return outcome, replace(new, revision=1)
        raise busy(item)

    async def get(self, ref: Ref) -> Reservation:
        """Return a reservation.

        Raises:
            UnknownReservation: There is none, or its retention is over.
        """
        found = await self._store.get(ref)
        if found is None:
            raise UnknownReservation.named(ref.id)
        return found

    async def change(self, ref: Ref, change: Change) -> Reservation:
        """Change a reservation, and return it as it is then.

        Raises:
            UnknownReservation: There is none.
            ReservationBusy: Others change it, or its pool, all the time.
        """

        def work(item: Reservation, before: _Members, now: datetime) -> list[Reservation]:
            after = change(item, now)
            if after is None:
                return []
            return self._settled(before, after, now) if item.pool and item.open else [after]

        return await self._changed(ref, work)

    async def due(self, ref: Ref) -> bool:
        """Do what time has made due of a reservation, and of its pool; return whether that was anything.

        Raises:
            UnknownReservation: There is none.
            ReservationBusy: Others change it, or its pool, all the time.
        """
        happened = False

        def work(item: Reservation, before: _Members, now: datetime) -> list[Reservation]:
            nonlocal happened
            if item.pool and item.open:
                found = _differing(before, self._moved(before, now))
            else:
                after = machine.due(item, now=now, keep=self._keep)
                found = [] if after is None else [after]
            happened = bool(found)
            return found

        await self._changed(ref, work)
        return happened

    async def replan(self, ref: Ref, outlooks: Sequence[Outlook]) -> Reservation:
        """Move work that waits, if a new forecast makes that worth it.

        Args:
            ref: The reservation.
            outlooks: Of the zones in which it may run.

        Raises:
            UnknownReservation: There is none.
            ReservationBusy: Others change it, or its pool, all the time.
        """

        def work(item: Reservation, before: _Members, now: datetime) -> list[Reservation]:
            if item.state not in WAITS or now >= item.due or (item.plan and item.mark == mark_of(outlooks)):
                return []
            pool = self._pool(item.pool, before.values(), now) if item.pool else None
            return [replanned(item, outlooks, pool, now=now)]

        return await self._changed(ref, work)

    async def _changed(self, ref: Ref, work: _Work) -> Reservation:
        for _ in range(_TRIES):
            item = await self.get(ref)
            pool = await self._store.pool(item.pool) if item.pool and item.open else None
            before = {item.member: item}
            if pool is not None:
                before |= {member.member: member for member in pool.members}
                item = before[item.member]
            now = self._clock()
            changes = await asyncio.to_thread(work, item, before, now)
            if not changes:
                return item
            revision = None if pool is None else pool.revision
            if await self._written(before, changes, now=now, pool=revision) is not Outcome.OVERTAKEN:
                return replace(changes[0], revision=item.revision + 1)
        raise busy(await self.get(ref))

    def _admitted(
        self, item: Reservation, outlooks: Sequence[Outlook], before: _Members, now: datetime
    ) -> tuple[Reservation, list[Reservation]]:
        if not item.pool:
            return placed(item, outlooks, now), []
        members = self._moved(before, now)
        pool = self._pool(item.pool, members.values(), now)
        found = pool.admit(_claim(item, now, outlooks=outlooks))
        own = found.pop(item.member)
        new = replace(item, spans=own.spans, plan=own.plan, mark=mark_of(outlooks) if own.plan else "")
        members |= {key: _at(members[key], placement) for key, placement in found.items()}
        return new, _differing(before, members)

    def _settled(self, before: _Members, after: Reservation, now: datetime) -> list[Reservation]:
        """Return what has to be written so that the pool's schedule holds after a change."""
        members = self._moved({**before, after.member: after}, now)
        return [members.pop(after.member), *_differing(before, members)]

    def _moved(self, members: _Members, now: datetime) -> dict[str, Reservation]:
        """Return the members of a pool once all that is due is done, and placed anew where it must be."""
        if not members:
            return {}
        found, name = dict(members), next(iter(members.values())).pool
        # What ends makes room for what begins, and what is due first has it first.
        for member in sorted(members.values(), key=lambda item: (item.state is not State.RUNNING, item.due)):
            running = sum(other.state is State.RUNNING for other in found.values())
            if member.state is State.RUNNING or now >= member.latest_start or self._has_room(name, running):
                found[member.member] = self._advanced(member, now)
        repaired = self._pool(name, found.values(), now, late=True).repair()
        for key, placement in repaired.placements.items():
            member, spans = found[key], placement.spans
            if key in repaired.over and member.state in WAITS:
                # Room may come yet: it waits for that as long as it can.
                start = max(now, member.latest_start)
                spans = (Span(start, start + member.left),)
            if spans != member.spans:
                found[key] = _at(member, replace(placement, spans=spans))
        self._observer.crowded(name, len(repaired.over))
        return found

    def _has_room(self, name: str, running: int) -> bool:
        capacity = self._pools.get(name)
        return capacity is None or running < capacity

    def _pool(self, name: str, members: Iterable[Reservation], now: datetime, *, late: bool = False) -> Pool:
        """Return a pool; where something came *late*, its members may take half of their margins for it."""
        claims = (_claim(member, now, late=late) for member in members if member.open)
        # A pool that is no longer set has no limit: what it promised is kept.
        return Pool(self._pools.get(name), claims, name=name)

    def _advanced(self, item: Reservation, now: datetime) -> Reservation:
        while (after := machine.due(item, now=now, keep=self._keep)) is not None:
            item = after
        return item

    async def _written(
        self,
        before: _Members,
        changes: Sequence[Reservation],
        *,
        now: datetime,
        pool: int | None,
        new: str | None = None,
    ) -> Outcome:
        counted = [replace(item, revision=before[item.member].revision + 1) for item in changes]
        outcome = await self._store.commit(counted, now=now, pool=pool, new=new)
        if outcome is Outcome.DONE:
            for item in counted:
                self._observer.changed(before[item.member], item)
        return outcome


def _differing(before: _Members, after: _Members) -> list[Reservation]:
    return [member for key, member in after.items() if member is not before[key]]


def _claim(
    item: Reservation, now: datetime, *, late: bool = False, outlooks: Sequence[Outlook] = ()
) -> Claim:
    aim = item.spans[0].start if item.spans else without_data(item, now).start
    claim = Claim.of(item, now=now, outlooks=outlooks, aim=aim)
    if claim.running:
        # It runs now, whatever a clock that was set says; what should have ended may run until that is
        # assumed.
        start, end = min(claim.running.start, now), claim.running.end
        claim = replace(claim, running=Span(start, end if end > now else item.due))
    if late:
        job = replace(claim.job, deadline=item.last_end)
        if item.state in WAITS:
            job = replace(job, earliest=min(max(now, item.earliest), job.latest_start))
        return replace(claim, job=job)
    return replace(claim, job=_with_reserve(claim.job, item.reserve)) if claim.moves else claim


def _with_reserve(job: Job, reserve: timedelta) -> Job:
    """Return a job that runs a moment longer, if there is time for that."""
    reserve = max(NO_TIME, min(reserve, job.latest_start - job.earliest))
    power = job.power
    if power:
        power = (*power[:-1], replace(power[-1], duration=power[-1].duration + reserve))
    return replace(job, duration=job.duration + reserve, power=power)


def _at(item: Reservation, placement: Placement) -> Reservation:
    plan = placement.plan
    if plan is None and item.plan is not None:
        # What it emits there is known when it is looked at next.
        plan = replace(item.plan, spans=placement.spans)
    return replace(item, spans=placement.spans, plan=plan, mark="")


def busy(item: Reservation) -> ReservationBusy:
    """Return the error for a change that others were always faster than."""
    return ReservationBusy(
        f"reservation {item.id} or its pool changes faster than this call can change it; try again",
        retry_after=timedelta(seconds=1),
        reservation=item.id,
    )
