"""Works off jobs: takes as many as there are free slots, keeps their leases, and drains at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Final, Self

from aegis_agent.adapters.jobs.queue import CANCELLED, LOST
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.adapters.jobs.work import Bench, Stop, Work
from aegis_agent.domain.jobs.errors import JobStoreUnavailable
from aegis_agent.domain.jobs.job import JobRef
from aegis_common.background import ended

_LOOK_S: Final = 1.0
"""How often it looks for work without an announcement."""
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
        self._lease = lease
        self._grace = grace
        self._signals: Signals | None = None
        self._work: dict[asyncio.Task[None], Work] = {}
        self._freed = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._drain: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """How many jobs it has in hand."""
        return len(self._work)

    def cancelled(self, ref: JobRef) -> None:
        """Stop the work of a job that somebody cancelled, if it runs here."""
        for work in self._work.values():
            if work.entry.ref == ref:
                work.stop(Stop.CANCELLED)

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
        """Take no more jobs, and let those in hand finish; `async with` waits for the end of it."""
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
                taken = await self._bench.queue.take(free)
            except JobStoreUnavailable as error:
                _log.warning("job runner: %s", error.message)
                await asyncio.sleep(_AWAY_S)
                continue
            except Exception:  # it must not stop taking jobs for one fault
                _log.exception("job runner failed to take jobs")
                await asyncio.sleep(_LOOK_S)
                continue
            for entry in taken:
                work = Work(self._bench, entry)
                task = asyncio.create_task(work.run(), name=f"work on job {entry.ref.job_id}")
                self._work[task] = work
                task.add_done_callback(self._done)
            if not taken:
                await signals.work(at_most_s=_LOOK_S)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._work[task]
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work on a job failed; its lease will end", exc_info=error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / _RENEWALS)
            works = list(self._work.values())
            try:
                states = await self._bench.queue.renew([work.entry for work in works])
            except JobStoreUnavailable as error:
                _log.warning("job leases are not renewed: %s", error.message)
                continue
            except Exception:
                _log.exception("job leases are not renewed")
                continue
            for work, state in zip(works, states, strict=True):
                if state == CANCELLED:
                    work.stop(Stop.CANCELLED)
                elif state == LOST:
                    work.stop(Stop.LOST)

    async def _drained(self) -> None:
        await ended(*self._loops[:1])  # it takes no more
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
