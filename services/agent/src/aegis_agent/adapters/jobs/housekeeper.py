"""Keeps house among the jobs: promotes those whose time has come, finds lost runners, deletes what is old.

Every agent runs one; a lease decides which of them works. All of it may run twice without harm: each step
names the revision of the job that it changes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, Final, Self

from aegis_agent.adapters.jobs import keys, scripts
from aegis_agent.adapters.jobs.queue import RunnerQueue
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import JobStoreUnavailable, UnknownJob, UnreadableJob
from aegis_agent.domain.jobs.job import CarbonAnswer, CarbonPolicy, Job, JobRef, Phase
from aegis_agent.domain.jobs.ports import Carbon, Change, Reservations
from aegis_common.background import Every
from aegis_common.clock import Clock
from aegis_common.errors import AegisError

_TICK: Final = timedelta(seconds=0.25)
_ASK: Final = timedelta(seconds=0.5)
_DELETE: Final = timedelta(seconds=15)
_FORGET: Final = timedelta(minutes=10)
_LEASE_MS: Final = 5_000
_BATCH: Final = 200
_MOST_DUE: Final = 10_000
_AT_ONCE: Final = 8
_SECOND_LOOK: Final = 1 / 3
"""Of a lease: a runner renews its leases more often than that."""
_ASK_AGAIN: Final = timedelta(seconds=30)
_log: Final = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]


class Housekeeper:
    """Use as `async with`.

    Args:
        store: The jobs.
        queue: The queues, under a name of the housekeeper's own.
        carbon: None where there is no carbon service.
        reservations: The places in time of jobs; None where there is no carbon service.
        tell: Tells carbon what became of them.
        clock: The time.
        holder: Name of this process; no other has it.
        lease: How long a job may go without a sign of life of its runner.
        keep: How long an ended job is kept.
    """

    def __init__(
        self,
        store: RedisJobStore,
        queue: RunnerQueue,
        *,
        carbon: Carbon | None,
        reservations: Reservations | None = None,
        tell: Step | None = None,
        clock: Clock,
        holder: str,
        lease: timedelta,
        keep: timedelta,
    ) -> None:
        self._store = store
        self._queue = queue
        self._carbon = carbon
        self._reservations = reservations
        self._clock = clock
        self._holder = holder
        self._lease = lease
        self._keep = keep
        self._suspects: dict[str, float] = {}
        self._stack = AsyncExitStack()
        self._work: list[tuple[str, timedelta | Callable[[], timedelta], Step]] = [
            ("promote", _TICK, self._promote),
            ("sweep", self._sweep_pause, self._sweep),
            ("carbon", _ASK, self._ask_carbon),
            ("delete", _DELETE, self._delete),
            ("forget", _FORGET, self._queue.forget),
        ]
        if tell is not None:
            self._work.append(("tell", _ASK, tell))

    async def __aenter__(self) -> Self:
        for name, interval, step in self._work:
            work = self._guarded(name, step)
            await self._stack.enter_async_context(Every(interval, work, name=f"jobs: {name}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for name in (item[0] for item in self._work):
            try:
                await self._store.eval(scripts.DROP_LEASE, (keys.lease(name),), self._holder)
            except JobStoreUnavailable:
                return  # it ends by itself

    def _sweep_pause(self) -> timedelta:
        return self._lease * random.uniform(0.15, 0.35)  # noqa: S311  # spreads load, keeps no secret

    def _guarded(self, name: str, step: Step) -> Step:
        async def work() -> None:
            try:
                held = await self._store.eval(
                    scripts.KEEP_LEASE, (keys.lease(name),), self._holder, _LEASE_MS
                )
                if held:
                    await step()
            except JobStoreUnavailable as error:
                _log.debug("jobs are not kept house for: %s", error.message)

        return work

    async def _promote(self) -> None:
        now = self._clock()
        await self._each(keys.DELAYED, now, lambda job: machine.due(job, now=now))
        await self._each(
            keys.DEADLINES, now, lambda job: machine.deadline_over(job, keep=self._keep, now=now)
        )

    async def _each(self, key: str, now: datetime, change: Change) -> None:
        async for batch in self._due(key, now):
            await _at_once([self._change(key, ref, job, change) for ref, job in batch])

    async def _due(self, key: str, now: datetime) -> AsyncIterator[list[tuple[JobRef, Job]]]:
        """Yield the jobs of a sorted set whose time has come, batch by batch; those that are gone leave it.

        Those that cannot be read stay, and hold up no others.
        """
        refs = await self._store.due(key, now=now, count=_MOST_DUE)
        for batch in _batched(refs, _BATCH):
            found = list(zip(batch, await self._store.load_many(batch), strict=True))
            for ref, job in found:
                if job is None:
                    await self._store.drop_member(key, ref.member)
            yield [(ref, job) for ref, job in found if isinstance(job, Job)]

    async def _change(self, key: str, ref: JobRef, job: Job, change: Change) -> None:
        try:
            await self._store.update(ref, change, known=job)
        except UnknownJob:
            await self._store.drop_member(key, ref.member)

    async def _sweep(self) -> None:
        """Decide about jobs whose runner gave no sign of life for a lease.

        Runners could not give one while Redis was away: after that they get a whole lease to catch up. They
        also get some time when all leases seem over at once, as after a jump of the clock of Redis.
        """
        if self._store.connection.steady_for() < self._lease.total_seconds():
            self._suspects.clear()
            return
        now = asyncio.get_running_loop().time()
        found = await self._queue.expired(_BATCH)
        self._suspects = {entry: self._suspects.get(entry, now) for entry in found}
        grace = self._lease.total_seconds() * _SECOND_LOOK
        await _at_once([self._lost(entry) for entry, seen in self._suspects.items() if now - seen >= grace])

    async def _lost(self, entry_id: str) -> None:
        entry = await self._queue.claim(entry_id)
        if entry is None:
            return
        try:
            job = await self._store.load(entry.ref)
        except UnknownJob:
            await self._queue.drop(entry)
            return
        except UnreadableJob as error:
            _log.error("a job cannot be read: %s", error.message, extra={"job": entry.ref.member})
            return
        if not entry.leads_to(job):
            await self._queue.drop(entry)
            return

        def change(now: Job) -> Job | None:
            if not entry.leads_to(now):
                return None
            if now.phase is Phase.QUEUED:
                return machine.never_started(now, entry.number, keep=self._keep, now=self._clock())
            return machine.lost(now, keep=self._keep, now=self._clock())

        changed = await self._store.update(entry.ref, change, known=job, drop=entry.entry)
        if changed is not None:
            _log.warning("the runner of a job was lost", extra={"job": job.ref.member, "runner": job.runner})

    async def _ask_carbon(self) -> None:
        answers: dict[tuple[str, CarbonPolicy], asyncio.Task[CarbonAnswer]] = {}

        async def asked(job: Job) -> CarbonAnswer:
            policy = job.spec.carbon or CarbonPolicy()
            key = (job.principal, policy)
            if key not in answers:  # one question for all jobs that would ask the same
                answers[key] = asyncio.create_task(self._answer(job, policy))
            return await answers[key]

        async def one(ref: JobRef, job: Job) -> None:
            answer = await self._held(job)
            if answer is None:
                later = machine.asks_later(job, now=self._clock())
                answer = await asked(job) if later is None else None

            def change(now: Job) -> Job | None:
                if answer is None:
                    return machine.asks_later(now, now=self._clock())
                return machine.carbon_answered(now, answer, now=self._clock())

            await self._change(keys.CARBON, ref, job, change)

        async for batch in self._due(keys.CARBON, self._clock()):
            await _at_once([one(ref, job) for ref, job in batch])

    async def _held(self, job: Job) -> CarbonAnswer | None:
        """Return what holds for the reservation of a job; None for one that has none, and cannot have any."""
        if self._reservations is None or not job.spec.reserves:
            return None
        try:
            return await self._reservations.hold(job)
        except AegisError as error:
            return self._in_vain(job, error)

    async def _answer(self, job: Job, policy: CarbonPolicy) -> CarbonAnswer:
        if self._carbon is None:
            return self._unknown("NO_CARBON_SERVICE")
        try:
            return await self._carbon.ask(policy, principal=job.principal, traceparent=job.traceparent)
        except AegisError as error:
            return self._in_vain(job, error)

    def _in_vain(self, job: Job, error: AegisError) -> CarbonAnswer:
        """Return an answer when zone or pool are gone, there is no room, or the principal cannot be read."""
        _log.warning("a job waits in vain: %s", error.message, extra={"job": job.ref.member})
        return self._unknown(error.reason)

    def _unknown(self, reason: str) -> CarbonAnswer:
        return CarbonAnswer(run_now=False, reason=reason, asked=self._clock(), retry_after=_ASK_AGAIN)

    async def _delete(self) -> None:
        now = self._clock()
        async for batch in self._due(keys.EXPIRY, now):
            await _at_once([self._store.delete(job, now=now) for _, job in batch])


def _batched(refs: Sequence[JobRef], size: int) -> Iterator[Sequence[JobRef]]:
    return (refs[begin : begin + size] for begin in range(0, len(refs), size))


async def _at_once(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do *work*, a few pieces at a time; the first failure is raised when all is done."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(piece: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await piece

    results = await asyncio.gather(*(one(piece) for piece in work), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
