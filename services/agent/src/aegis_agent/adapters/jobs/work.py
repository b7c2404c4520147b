"""One job on one runner: from its entry in the queue to its result in the store."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from aegis_agent.adapters import parts
from aegis_agent.adapters.jobs.content import caller_of, decoded, patiently, stored_result
from aegis_agent.adapters.jobs.events import Teller
from aegis_agent.adapters.jobs.queue import Entry, RunnerQueue
from aegis_agent.adapters.jobs.store import RedisJobStore, insist
from aegis_agent.domain.call import Attempt
from aegis_agent.domain.dispatch import Action, Dispatcher
from aegis_agent.domain.errors import AgentInternal, ToolTimeout, UnknownTool
from aegis_agent.domain.execution import Begun
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import Fenced, JobDeadline, UnknownJob, UnreadableJob
from aegis_agent.domain.jobs.job import Failure, Job, Phase
from aegis_agent.domain.jobs.ports import Change, KeptArtifacts
from aegis_agent.domain.jobs.steps import check_current, metered
from aegis_agent.domain.result import Result
from aegis_agent.domain.tool import JsonSchema
from aegis_agent.domain.usage import Spent
from aegis_common.auth.principal import Principal
from aegis_common.background import ended
from aegis_common.clock import Clock
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.rpc.outgoing import acting_for

_POSTPONE: Final = timedelta(seconds=1)
_MOST_POSTPONE: Final = timedelta(seconds=30)
_TO_WRITE: Final = timedelta(minutes=5)
"""Longest time between a result and its place in the store."""
_LATER: Final = frozenset({ErrorKind.RESOURCE_EXHAUSTED, ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE_EXCEEDED})
_log: Final = logging.getLogger(__name__)


class Stop(Enum):
    """Why work is stopped from outside."""

    CANCELLED = "somebody cancelled the job"
    LOST = "the lease was lost"
    DRAINING = "the agent is being stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all work of a runner shares.

    Attributes:
        runner: Name of this process; no other has it.
        keep: How long an ended job is kept.
        result_bytes: Most bytes of a stored result; what is beyond becomes artifacts.
        artifacts: Keeps the artifacts of results; None where there is no artifact store.
    """

    store: RedisJobStore
    queue: RunnerQueue
    dispatcher: Dispatcher
    clock: Clock
    runner: str
    keep: timedelta
    result_bytes: int
    artifacts: KeptArtifacts | None = None


class Work:
    """Runs one job that was taken.

    Attributes:
        admitted: Whether it has its slot of the tool, or needs none any more.
    """

    def __init__(self, bench: Bench, entry: Entry) -> None:
        self.entry: Final = entry
        self.admitted = False
        self._bench = bench
        self._begun: Job | None = None
        self._stop: Stop | None = None
        self._call: asyncio.Task[Result] | None = None
        self._spent = Spent()

    def stop(self, why: Stop) -> None:
        """Stop the work, for the first reason that is given."""
        self._stop = self._stop or why
        if self._call is not None:
            self._call.cancel()

    def _why(self) -> Stop:
        return self._stop or Stop.DRAINING

    async def run(self) -> None:
        """Run the job, and see to it that the store learns what became of it."""
        ref = self.entry.ref
        try:
            stored = await insist(lambda: self._bench.store.load_whole(ref))
        except UnknownJob:
            await self._drop_stale()
            return
        except UnreadableJob as error:
            _log.error("job %s cannot be read, and stays: %s", ref.member, error.message)
            return
        job = stored.job
        if job.phase is not Phase.QUEUED or job.queue_number != self.entry.number:
            await self._drop_stale()
            return
        try:
            await self._run(job, stored.payload)
        except Fenced:
            _log.info("the job went on without this runner", extra={"job": job.ref.member})
            await self._drop_stale()

    async def _run(self, job: Job, payload: bytes) -> None:
        try:
            principal = Principal.from_record(job.principal)
        except AegisError as error:
            await self._refuse(job, Failure.of(error))
            return
        teller = Teller(self._bench.store, job.ref, attempt=job.attempt + 1, runner=self._bench.runner)
        with acting_for(principal, traceparent=job.traceparent):
            telling = asyncio.create_task(teller.write(), name=f"events of job {job.job_id}")
            try:
                await self._decided(job, payload, teller)
            finally:
                await ended(telling)

    async def _drop_stale(self) -> None:
        """Remove the entry if no job depends on it; one whose runner is about to be declared lost does."""
        try:
            job = await insist(lambda: self._bench.store.load(self.entry.ref))
        except UnknownJob:
            job = None
        if job is None or not self.entry.leads_to(job):
            await insist(lambda: self._bench.queue.drop(self.entry))

    async def _decided(self, job: Job, payload: bytes, teller: Teller) -> None:
        if self._stop is not None:
            await self._stopped(job, self._stop)
            return
        self._call = asyncio.create_task(self._dispatch(job, payload, teller), name=f"job {job.job_id}")
        try:
            await asyncio.wait({self._call})
        except asyncio.CancelledError:
            await ended(self._call)
            raise
        if self._call.cancelled():
            await teller.finish()
            await self._stopped(job, self._why())
            return
        error = self._call.exception()
        if error is None:
            await self._succeeded(job, self._call.result(), teller)
        elif isinstance(error, AegisError):
            await self._failed(job, error, teller)
        elif isinstance(error, Fenced):
            raise error
        else:
            await self._failed(job, _unforeseen(job, error), teller)

    async def _dispatch(self, job: Job, payload: bytes, teller: Teller) -> Result:
        caller = caller_of(job.principal)
        checkpoint = await insist(lambda: self._bench.store.checkpoint(job.ref)) if job.attempts else None
        deadline = job.spec.deadline
        content = parts.from_protos(decoded(payload))
        return await self._bench.dispatcher.dispatch(
            Action(job.spec.tool, content, job.spec.timeout, job.spec.priority),
            caller=caller,
            time_left=None if deadline is None else deadline - self._bench.clock(),
            sink=teller.take,
            collect=False,
            attempt=Attempt(
                number=job.attempts_begun + 1, job=job.job_id, checkpoint=checkpoint, spent=self._spent
            ),
            on_begin=lambda begun: self._begin(job, begun),
        )

    async def _begin(self, job: Job, begun: Begun) -> None:
        """Put the start on disk; only then does the tool run."""
        self.admitted = True
        spec = begun.tool.spec

        def change(now: Job) -> Job | None:
            if self._is_ours(now):
                return None  # our own write, whose answer was lost
            return machine.started(
                now,
                runner=self._bench.runner,
                entry=self.entry.entry,
                queue_number=self.entry.number,
                idempotent=spec.idempotent,
                tool_version=spec.version,
                now=self._bench.clock(),
            )

        started = await insist(lambda: self._bench.store.update(job.ref, change, known=job))
        if self._stop is not None:  # the client of the store may have swallowed the cancellation
            raise asyncio.CancelledError
        self._begun = started or await insist(lambda: self._bench.store.load(job.ref))

    def _is_ours(self, job: Job) -> bool:
        return job.runs and job.runner == self._bench.runner and job.entry == self.entry.entry

    async def _succeeded(self, job: Job, result: Result, teller: Teller) -> None:
        try:
            value = teller.chunks if result.tool.spec.streams and result.value is None else result.value
            schema = result.tool.spec.output_schema
            encoded = await patiently(lambda: self._encoded(job, value, schema))
        except Exception as error:  # an attempt that cannot tell its result has ended all the same
            known = error if isinstance(error, AegisError) else _unforeseen(job, error)
            await self._failed(job, known, teller)
            return
        await teller.finish()
        tool = result.tool
        model = f"models/{tool.spec.model}/versions/{tool.model_version}" if tool.spec.model else ""

        def change(now: Job) -> Job:
            if self._begun is None:  # a result out of the cache: the tool was not started at all
                now = machine.started(
                    now,
                    runner=self._bench.runner,
                    entry=self.entry.entry,
                    queue_number=self.entry.number,
                    idempotent=tool.spec.idempotent,
                    tool_version=tool.spec.version,
                    now=self._bench.clock(),
                )
            return machine.completed(
                now,
                now.attempt if self._begun is None else self._begun.attempt,
                model_version=model,
                warnings=tool.warnings,
                keep=self._bench.keep,
                now=self._bench.clock(),
            )

        await self._write(job, change, result=encoded)

    async def _encoded(self, job: Job, value: Any, schema: JsonSchema) -> bytes:
        bench = self._bench
        own = bench.dispatcher.artifacts
        return await stored_result(
            value,
            schema,
            tenant=job.tenant,
            room=bench.result_bytes,
            own=own(caller_of(job.principal)) if own else None,
            kept=bench.artifacts,
            until=bench.clock() + bench.keep + _TO_WRITE,
        )

    async def _failed(self, job: Job, error: AegisError, teller: Teller) -> None:
        await teller.finish()
        now = self._bench.clock()
        over = job.spec.deadline is not None and job.spec.deadline <= now
        if over and isinstance(error, ToolTimeout) and job.spec.deadline is not None:
            error = JobDeadline.of(job.spec.deadline, started=self._begun is not None)
        failure = Failure.of(error)
        if self._begun is not None:
            attempt = self._begun.attempt
            share = random.random()  # noqa: S311  # spreads load, keeps no secret
            keep = self._bench.keep
            await self._write(
                job, lambda now_: machine.failed(now_, attempt, failure, share=share, keep=keep, now=now)
            )
        elif over or not _later(job, error, now=now):
            await self._refuse(job, failure)
        else:
            await self._postpone(job, _pause(job, error), failure)

    async def _refuse(self, job: Job, failure: Failure) -> None:
        number, keep, clock = self.entry.number, self._bench.keep, self._bench.clock
        await self._write_unbegun(
            job, lambda now: machine.refused(now, number, failure, keep=keep, now=clock())
        )

    async def _postpone(self, job: Job, after: timedelta, why: Failure | None = None) -> None:
        number, clock = self.entry.number, self._bench.clock
        await self._write_unbegun(
            job, lambda now: machine.postponed(now, number, after=after, now=clock(), why=why)
        )

    async def _stopped(self, job: Job, why: Stop) -> None:
        if why is Stop.LOST:
            raise Fenced
        clock, keep, begun = self._bench.clock, self._bench.keep, self._begun
        if why is Stop.CANCELLED:
            if begun is None:
                fresh = await insist(lambda: self._bench.store.load(job.ref))
                await self._write_unbegun(fresh, _fenced)  # unless its start is on disk, it has ended already
                return
            await self._write(job, lambda now: machine.cancelled(now, begun.attempt, keep=keep, now=clock()))
        elif begun is None:
            await self._postpone(job, timedelta(0))
        elif begun.idempotent:
            await self._write(
                job, lambda now: machine.handed_back(now, begun.attempt, keep=keep, now=clock())
            )
        else:
            what = f"the agent process {self._bench.runner!r} that ran it was stopped"

            def given_up(now: Job) -> Job | None:
                check_current(now, begun.attempt)
                return machine.lost(now, keep=keep, now=clock(), why=what)

            await self._write(job, given_up)

    async def _write(self, job: Job, change: Change, *, result: bytes | None = None) -> None:
        known, drop = self._begun or job, self.entry.entry

        def accounted(now: Job) -> Job | None:
            wanted = change(now)
            return wanted and metered(wanted, now.attempt, self._spent.usage())

        await insist(
            lambda: self._bench.store.update(job.ref, accounted, known=known, result=result, drop=drop)
        )

    async def _write_unbegun(self, job: Job, change: Change) -> None:
        """Write what becomes of a job that was not started; its start may be on disk all the same."""

        def undone(now: Job) -> Job | None:
            if self._is_ours(now):
                # It comes back at once, and is looked at again.
                return machine.handed_back(now, now.attempt, keep=self._bench.keep, now=self._bench.clock())
            return change(now)

        await self._write(job, undone)


def _fenced(_: Job) -> Job:
    raise Fenced


def _unforeseen(job: Job, error: BaseException) -> AegisError:
    _log.error("a job failed unexpectedly", extra={"job": job.ref.member}, exc_info=error)
    return AgentInternal("the agent failed; its log has the cause")


def _later(job: Job, error: AegisError, *, now: datetime) -> bool:
    """Whether a job that was not started may be started later."""
    if isinstance(error, UnknownTool):
        return machine.may_find_tool(job, now=now)
    return error.kind in _LATER


def _pause(job: Job, error: AegisError) -> timedelta:
    grown = _POSTPONE * int(2 ** min(job.hand_backs, 5))
    return min(max(grown, error.retry_after or _POSTPONE), _MOST_POSTPONE)
