"""Carries out what is decided: for each Job that changed, or whose time has come, and only while leading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from aegis_carbon.controller.domain.bookings import Bookings
from aegis_carbon.controller.domain.case import Decision, Memory, Rules
from aegis_carbon.controller.domain.decide import decide
from aegis_carbon.controller.domain.job import Job, JobStore
from aegis_carbon.controller.domain.ports import ApiUnavailable, Changed, Jobs, Note
from aegis_carbon.controller.domain.tenants import Tenants
from aegis_common.clock import Clock

_AGAIN: Final = timedelta(seconds=1)
_AT_ONCE: Final = 16
_LEAST_S: Final = 0.02
_MOST_NOTES: Final = 100
_log: Final = logging.getLogger(__name__)


class Observer(Protocol):
    """Counts what was done."""

    def did(self, action: str) -> None:
        """Count one Event reason or one failure."""
        ...


@dataclass(frozen=True, slots=True)
class _Due:
    """When to look again: at a moment, or after a time, whichever comes first; clocks are set."""

    at: datetime
    elapsed_s: float


class Controller:
    """Suspends and resumes Jobs.

    Args:
        store: The Jobs, as they are seen.
        jobs: Changes them.
        bookings: What the carbon service says of them.
        tenants: Whose they are.
        rules: What an operator has set.
        leading: Whether this process may act; asked before each change.
        clock: Present time.
        elapsed: A clock that never steps, in seconds.
        observer: Counts what is done.
    """

    def __init__(
        self,
        store: JobStore,
        jobs: Jobs,
        bookings: Bookings,
        *,
        tenants: Tenants,
        rules: Rules,
        leading: Callable[[], bool],
        clock: Clock,
        elapsed: Callable[[], float],
        observer: Observer,
    ) -> None:
        self._store, self._jobs, self._bookings = store, jobs, bookings
        self._tenants, self._rules, self._leading = tenants, rules, leading
        self._clock, self._elapsed, self._observer = clock, elapsed, observer
        self._memory: dict[str, Memory] = {}
        self._due: dict[str, _Due] = {}
        self._told: dict[str, set[Note]] = {}
        self._led = False

    async def turn(self) -> None:
        """Look at every Job that has changed or is due."""
        if not (self._leading() and self._store.synced):
            self._led = False
            # Whoever leads looks at all of them.
            self._store.take_changed()
            return
        changed = self._store.take_changed()
        if not self._led:
            self._led = True
            self._memory.clear()
            self._bookings.forget()
            changed |= {job.uid for job in self._store.all()}
        now, elapsed_s = self._clock(), self._elapsed()
        changed |= {uid for uid, due in self._due.items() if now >= due.at or elapsed_s >= due.elapsed_s}
        limit = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._guarded(uid, limit) for uid in changed))

    def idle_s(self, most_s: float) -> float:
        """Return for how many seconds nothing is due, at most *most_s*: clocks are set."""
        now, elapsed_s = self._clock(), self._elapsed()
        waits = (min((due.at - now).total_seconds(), due.elapsed_s - elapsed_s) for due in self._due.values())
        return min(most_s, max(_LEAST_S, min(waits, default=most_s))) if self._led else most_s

    async def _guarded(self, uid: str, limit: asyncio.Semaphore) -> None:
        """Look at one Job; what goes wrong with it must not keep another one from its start."""
        async with limit:
            self._due.pop(uid, None)
            try:
                await self._look(uid)
            except Changed:
                self._look_again(uid, self._clock() + _AGAIN)
                await self._read_again(uid)
            except ApiUnavailable as error:
                self._observer.did("ApiUnavailable")
                _log.warning("a Job could not be changed: %s", error.message)
                self._look_again(uid, self._clock() + _AGAIN)
            except Exception:
                self._observer.did("Error")
                _log.exception("a Job could not be looked at")
                self._look_again(uid, self._clock() + _AGAIN)

    async def _read_again(self, uid: str) -> None:
        """Take a Job as it is now: whoever changed it may have been seen too early."""
        job = self._store.get(uid)
        if job is None:
            return
        try:
            found = await self._jobs.read(job.namespace, job.name, uid)
        except ApiUnavailable as error:
            _log.warning("a Job could not be read: %s", error.message)
            return
        if self._store.get(uid) is job:
            self._store.update(found) if found is not None else self._store.remove(uid)

    async def _look(self, uid: str) -> None:
        job = self._store.get(uid)
        if job is None:
            self._memory.pop(uid, None)
            self._told.pop(uid, None)
            return
        decision = decide(
            job,
            self._bookings.known(job),
            self._memory.get(uid),
            tenant=self._tenants.of(job.namespace),
            rules=self._rules,
            now=self._clock(),
            elapsed_s=self._elapsed(),
        )
        if decision.wanted is not None:
            self._bookings.want(decision.wanted)
        await self._carry_out(job, decision)

    async def _carry_out(self, job: Job, decision: Decision) -> None:
        if decision.change is not None:
            if not self._leading():
                return
            after = await self._jobs.change(job, decision.change)
            # What was seen meanwhile is as new, or newer: it began with the version that was changed.
            if self._store.get(job.uid) is job:
                self._store.update(after)
            # What happened once may happen again, and is told again.
            self._told.pop(job.uid, None)
        if decision.memory is not None:
            self._memory[job.uid] = decision.memory
        if decision.again is not None:
            self._look_again(job.uid, decision.again)
        for note in decision.notes:
            await self._tell(job, note)

    def _look_again(self, uid: str, at: datetime) -> None:
        self._due[uid] = _Due(at, self._elapsed() + (at - self._clock()).total_seconds())

    async def _tell(self, job: Job, note: Note) -> None:
        """Tell it once; an Event that cannot be written is not worth a second try."""
        told = self._told.setdefault(job.uid, set())
        if note in told:
            return
        if len(told) >= _MOST_NOTES:
            told.clear()
        told.add(note)
        self._observer.did(note.reason)
        try:
            await self._jobs.tell(job, note)
        except ApiUnavailable as error:
            _log.warning("an Event was not written: %s", error.message, extra={"event_reason": note.reason})
