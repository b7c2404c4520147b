"""Keeps what the carbon service knows and what was done with the Jobs in step, one turn after another.

It compares what is with what the service says, and remembers nothing that it could not find out anew: so a
restart, another leader, or a service that was away for hours needs nothing of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from aegis_carbon.controller.domain.case import Known
from aegis_carbon.controller.domain.job import Job, JobStore
from aegis_carbon.controller.domain.ports import ApiUnavailable, Jobs
from aegis_carbon.controller.domain.record import Phase, Record, digest, record_of
from aegis_carbon.controller.domain.reservations import (
    CarbonUnavailable,
    Event,
    Later,
    Refused,
    Report,
    Reservation,
    Reservations,
    State,
    Wanted,
)
from aegis_carbon.controller.domain.tenants import Tenants

_FAILURES: Final = 3
"""Calls in a row without an answer after which the service is taken to be away."""
_log: Final = logging.getLogger(__name__)


class Bookings:
    """The reservations of all Jobs.

    Args:
        reservations: The carbon service.
        store: The Jobs.
        jobs: Says whether a Job is really gone.
        tenants: Whose they are.
        leading: Whether this process may act.
    """

    def __init__(
        self,
        reservations: Reservations,
        store: JobStore,
        jobs: Jobs,
        *,
        tenants: Tenants,
        leading: Callable[[], bool],
    ) -> None:
        self._reservations, self._store, self._jobs = reservations, store, jobs
        self._tenants, self._leading = tenants, leading
        self._trouble: dict[str, str] = {}
        self._found: dict[str, Reservation] = {}
        self._refused: dict[str, tuple[str, Refused]] = {}
        self._wanted: dict[str, Wanted] = {}
        self._later: dict[str, str] = {}
        self._sent: dict[str, tuple[str, Report]] = {}
        self.wake: Final = asyncio.Event()

    @property
    def reachable(self) -> bool:
        """Whether every tenant's last question was answered."""
        return not any(self._trouble.values())

    def known(self, job: Job) -> Known:
        """Return what the service has said of a Job."""
        wish, refusal = self._refused.get(job.uid, ("", None))
        return Known(
            self._found.get(job.uid),
            refusal if wish == digest(job.annotations) else None,
            self._trouble.get(self._tenants.of(job.namespace), "") or self._later.get(job.uid, ""),
        )

    def want(self, wanted: Wanted) -> None:
        """Have a reservation made in the next turn, which comes at once."""
        known = self._found.get(wanted.uid)
        there = known is not None and known.open and known.wish == wanted.digest
        if self._wanted.get(wanted.uid) != wanted and not there:
            self._wanted[wanted.uid] = wanted
            self.wake.set()

    def forget(self) -> None:
        """Start anew: another leader has acted since."""
        for kept in (self._trouble, self._found, self._refused, self._wanted, self._later, self._sent):
            kept.clear()
        self.wake.set()

    async def turn(self) -> None:
        """Ask, compare and make good; a tenant whose answer fails waits for the next turn."""
        self.wake.clear()
        if not (self._leading() and self._store.synced):
            return
        self._tidy()
        for tenant in self._tenants.all():
            try:
                await self._of_tenant(tenant)
                trouble = ""
            except CarbonUnavailable as error:
                trouble = error.message
            self._set_trouble(tenant, trouble)

    def _tidy(self) -> None:
        here = {job.uid for job in self._store.all()}
        for kept in (self._found, self._refused, self._wanted, self._later, self._sent):
            for uid in set(kept) - here:
                del kept[uid]

    def _set_trouble(self, tenant: str, trouble: str) -> None:
        before = self._trouble.get(tenant, "")
        self._trouble[tenant] = trouble
        if bool(before) == bool(trouble):
            return
        if trouble:
            _log.warning("no answer from the carbon service for tenant %s: %s", tenant, trouble)
        else:
            _log.info("the carbon service answers for tenant %s", tenant)
        self._store.look_at(job.uid for job in self._store.all() if self._tenants.of(job.namespace) == tenant)

    async def _of_tenant(self, tenant: str) -> None:
        current: dict[str, Reservation] = {}
        work: list[Callable[[], Awaitable[None]]] = []
        for item in await self._reservations.open(tenant):
            job = self._store.get(item.uid)
            if job is None:
                work.append(partial(self._left_behind, item))
            elif item.wish == digest(job.annotations):
                current[item.uid] = item
            else:
                work.append(partial(self._reservations.cancel, tenant, item.name))
        jobs = [job for job in self._store.all() if self._tenants.of(job.namespace) == tenant]
        work += [partial(self._compare, tenant, job, current.get(job.uid)) for job in jobs]
        await self._done(work)

    async def _done(self, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Do one piece after another: one that fails must not keep the others, several in a row do."""
        failed = 0
        for piece in work:
            if not self._leading():
                return
            try:
                await piece()
                failed = 0
            except CarbonUnavailable as error:
                failed += 1
                if failed == min(_FAILURES, len(work)):
                    raise
                _log.warning("no answer about one Job: %s", error.message)

    async def _left_behind(self, item: Reservation) -> None:
        """The Job of a reservation is not here: give it back, if the Job is gone, or its wish is."""
        try:
            found = await self._jobs.read(item.namespace, item.job, item.uid)
        except ApiUnavailable:
            return
        if found is not None and found.ours:
            return
        if found is None and item.state is State.RUNNING:
            token = item.signal.token if item.signal is not None else item.start_token
            await self._reservations.report(item.tenant, item.name, Report(Event.FINISHED, token, None))
        else:
            await self._reservations.cancel(item.tenant, item.name)

    async def _compare(self, tenant: str, job: Job, item: Reservation | None) -> None:
        record = record_of(job.annotations)
        if item is None:
            item = await self._ended(tenant, job, record)
        if (item is None or not item.open) and job.uid in self._wanted and job.ended is None:
            item = await self._made(self._wanted[job.uid], job) or item
        if item is not None and self._found.get(job.uid) != item:
            self._found[job.uid] = item
            self._store.look_at([job.uid])
        if item is not None and (item.open or (item.end_assumed and job.ended is not None)):
            await self._bring(tenant, job, record, item)

    async def _ended(self, tenant: str, job: Job, record: Record | None) -> Reservation | None:
        """Return a reservation that is not among the open ones any more."""
        before = self._found.get(job.uid)
        current = digest(job.annotations)
        if before is not None and before.wish == current:
            if not before.open:
                return before
            name = before.name
        elif record is not None and record.wish == current and record.reservation and record.held:
            name = record.reservation
        else:
            return None
        found = await self._reservations.get(tenant, name)
        if found is not None and found.uid == job.uid:
            return found
        return Reservation(
            name,
            tenant,
            job.uid,
            job.namespace,
            job.name,
            current,
            State.CANCELLED,
            message="the carbon service does not know it any more",
        )

    async def _made(self, wanted: Wanted, job: Job) -> Reservation | None:
        if wanted.digest != digest(job.annotations):
            self._wanted.pop(job.uid, None)
            return None
        made = None
        try:
            made = await self._reservations.create(wanted)
        except Refused as refusal:
            self._refused[job.uid] = wanted.digest, refusal
            self._store.look_at([job.uid])
        except Later as later:
            self._later[job.uid] = later.message
            return None
        self._wanted.pop(job.uid, None)
        self._later.pop(job.uid, None)
        return made

    async def _bring(self, tenant: str, job: Job, record: Record | None, item: Reservation) -> None:
        """Tell the service what was done, once."""
        if record is not None and record.wish == item.wish and record.phase is Phase.RELEASED:
            await self._reservations.cancel(tenant, item.name)
            return
        report = due_report(job, record, item.wish)
        if report is not None and self._sent.get(job.uid) != (item.name, report):
            await self._reservations.report(tenant, item.name, report)
            self._sent[job.uid] = item.name, report


def due_report(job: Job, record: Record | None, wish: str) -> Report | None:
    """Return what a reservation for *wish* has to know of *job*; None: nothing yet."""
    if record is None or record.wish != wish:
        return Report(Event.FINISHED, 0, job.ended) if job.ended is not None else None
    if job.ended is not None:
        return Report(Event.FINISHED, record.token, job.ended)
    if record.phase is Phase.RUNNING:
        event = Event.RESUMED if record.stops else Event.STARTED
        return Report(event, record.token, record.since)
    if record.phase is Phase.SUSPENDED:
        return Report(Event.SUSPENDED, record.token, record.since, record.worked)
    return None
