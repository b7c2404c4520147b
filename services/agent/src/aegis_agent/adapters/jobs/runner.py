"""Works off jobs: takes as many as there are free slots, keeps their leases, and drains at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Sequence, Set
from datetime import timedelta
from typing import Final, Self

from aegis_agent.adapters.jobs.queue import ANNOUNCE_S, CANCELLED, LOST, Entry, Taken
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.adapters.jobs.work import Bench, Stop, Work
from aegis_agent.domain.jobs.errors import JobStoreUnavailable
from aegis_agent.domain.jobs.job import JobRef
from aegis_agent.domain.rooms import Key
from aegis_common.background import ended

_LOOK_S: Final = 1.0
"""How often it looks for work without an announcement."""
_HELD_UP_S: Final = 0.1
"""The same while jobs wait for tools that have no room: a call that is no job may end."""
_AWAY_S: Final = 0.3
_RENEWALS: Final = 4
"""Renewals of a lease before it would be over."""
_LAST_WRITES_S: Final = 5.0
_log: Final = logging.getLogger(__name__)


class JobRunner:
    """Runs jobs in this process; use as `async with`.

    Args:
        bench: What all its work shares.
        slots: Most jobs at once; 0 runs none.
        lease: How long a job may go without a sign of life of its runner.
        grace: How long running jobs may go on once the runner drains.
    """

    def __init__(self, bench: Bench, *, slots: int, lease: timedelta, grace: timedelta) -> None:
        self._bench = bench
        self._slots = slots
        self._lease_s = lease.total_seconds()
        self._grace = grace
        self._signals: Signals | None = None
        self._work: dict[asyncio.Task[None], Work] = {}
        self._known: set[str] = set()
        self._recounted = -math.inf
        self._announced: Set[Key] = frozenset()
        self._announced_at = 0.0
        self._freed = asyncio.Event()
        self._look = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._drain: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """How many jobs it has in hand."""
        return len(self._work)

    def cancelled(self, ref: JobRef) -> None:
        """Look at once whether work has to stop: somebody cancelled a job."""
        if any(work.entry.ref == ref for work in self._work.values()):
            self._look.set()

    def start(self, signals: Signals) -> None:
        """Begin to take jobs."""
        self._signals = signals
        self._loops = [
            asyncio.create_task(self._take(signals), name="job runner"),
            asyncio.create_task(self._renew(), name="job leases"),
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.begin_drain()
        if self._drain is not None:
            await self._drain

    def begin_drain(self) -> None:
        """Take no more jobs, and let those that run finish; `async with` waits for the end of it."""
        if self._drain is None:
            self._drain = asyncio.create_task(self._drained(), name="job runner: drain")

    async def _take(self, signals: Signals) -> None:
        while True:
            free = self._slots - len(self._work)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                taken = await self._next(free)
            except JobStoreUnavailable as error:
                _log.warning("job runner: %s", error.message)
                self._recounted = -math.inf  # it may have taken jobs and not heard of it
                await asyncio.sleep(_AWAY_S)
                continue
            except Exception:  # it must not stop taking jobs for one fault
                _log.exception("job runner failed to take jobs")
                await asyncio.sleep(_LOOK_S)
                continue
            self._begin(taken.entries)
            if not taken.entries:
                await signals.work(at_most_s=_HELD_UP_S if taken.held_up else _LOOK_S)

    async def _next(self, free: int) -> Taken:
        now = asyncio.get_running_loop().time()
        if now - self._recounted > self._lease_s / 2:
            unheard = await self._unheard()
            self._recounted = now
            if unheard:
                return Taken(entries=unheard, held_up=False)
        coming = Counter(
            (work.entry.ref.tenant, work.entry.tool) for work in self._work.values() if not work.admitted
        )
        rooms = self._bench.dispatcher.rooms(coming=coming)
        if rooms.of_tool.keys() != self._announced or now - self._announced_at > ANNOUNCE_S:
            await self._bench.queue.announce(rooms.of_tool)
            self._announced, self._announced_at = set(rooms.of_tool), now
        return await self._bench.queue.take(free, rooms)

    async def _unheard(self) -> list[Entry]:
        """Return jobs that are in this runner's hand without its knowledge: an answer of the store was lost.

        Never while an answer is on its way.
        """
        held = await self._bench.queue.held()
        found = [entry for entry in held if entry.entry not in self._known]
        self._known &= {entry.entry for entry in held}
        return found

    def _begin(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._known.add(entry.entry)
            work = Work(self._bench, entry)
            task = asyncio.create_task(work.run(), name=f"work on job {entry.ref.job_id}")
            self._work[task] = work
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._work[task]
        self._freed.set()
        if self._signals is not None:
            self._signals.wake()  # its tool may have room now
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work on a job failed; its lease will end", exc_info=error)

    async def _renew(self) -> None:
        pause = self._lease_s / _RENEWALS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            self._look.clear()
            works = list(self._work.values())
            try:
                async with asyncio.timeout(self._lease_s / _RENEWALS):  # a connection that hangs is given up
                    states = await self._bench.queue.renew([work.entry for work in works])
            except (JobStoreUnavailable, TimeoutError) as error:
                _log.warning("job leases are not renewed: %s", str(error) or "no answer in time")
                pause = min(_AWAY_S, pause)
                continue
            except Exception:
                _log.exception("job leases are not renewed")
                continue
            pause = self._lease_s / _RENEWALS
            for work, state in zip(works, states, strict=True):
                if state == CANCELLED:
                    work.stop(Stop.CANCELLED)
                elif state == LOST:
                    work.stop(Stop.LOST)

    async def _drained(self) -> None:
        await ended(*self._loops[:1])  # it takes no more
        with contextlib.suppress(JobStoreUnavailable, TimeoutError):
            async with asyncio.timeout(_LAST_WRITES_S):
                self._begin(await self._unheard())
        for work in list(self._work.values()):
            if not work.admitted:  # another agent starts it sooner
                work.stop(Stop.DRAINING)
        if self._work:
            _log.info("job runner drains", extra={"jobs": len(self._work)})
            await asyncio.wait(set(self._work), timeout=self._grace.total_seconds())
        for work in list(self._work.values()):
            work.stop(Stop.DRAINING)
        if self._work:
            await asyncio.wait(set(self._work), timeout=_LAST_WRITES_S)
        await ended(*self._work, *self._loops)
        with contextlib.suppress(JobStoreUnavailable, TimeoutError):
            async with asyncio.timeout(_LAST_WRITES_S):
                await self._bench.queue.leave()
