"""What callers do with jobs: create, look, cancel, retry, explain."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aegis_agent.domain.call import Priority, Progress
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import InvalidJob, NoCarbonService, PayloadTooLarge
from aegis_agent.domain.jobs.explain import explanation
from aegis_agent.domain.jobs.filter import Filter, parse
from aegis_agent.domain.jobs.job import Failure, Job, JobRef, JobSpec, Phase, RetryPolicy
from aegis_agent.domain.jobs.ports import Carbon, JobStore, KeptArtifacts, Reservations, StoredJob
from aegis_agent.domain.tool import Tool
from aegis_common.clock import Clock
from aegis_common.errors import AegisError, InvalidPageToken

DEFAULT_PAGE_SIZE: Final = 100
MAX_AHEAD: Final = timedelta(days=30)
_DEFAULT_ATTEMPTS: Final = 3
_FIRST_ANSWER: Final = timedelta(seconds=10)
"""How long whoever creates a job asks for its reservation; after that the housekeeper does."""
_SCAN: Final = 200
_MAX_SCANNED: Final = 2_000
"""Jobs that one page looks at, at most; a filter that admits few then gives a short page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of jobs.

    Attributes:
        keep: How long an ended job is kept.
        payload_bytes: Most bytes of an encoded payload.
    """

    keep: timedelta = timedelta(days=7)
    payload_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A job as its caller asks for it; what is None has a default that depends on the tool."""

    spec: JobSpec
    timeout: timedelta | None = None
    priority: Priority | None = None
    max_attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Creator:
    """Who creates or retries a job.

    Attributes:
        principal: Stored record; the job runs for it.
        subject: Name for people.
        traceparent: W3C trace context.
    """

    tenant: str
    principal: str
    subject: str
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A job and what is told of it."""

    job: Job
    progress: Progress | None
    lines: Sequence[str]
    queue_length: int


class Jobs:
    """The use cases of JobService.

    Args:
        store: Where jobs are.
        carbon: None on an agent that knows no carbon service.
        reservations: The places in time of jobs; None as for *carbon*.
        clock: The time.
        limits: Bounds.
        artifacts: Keeps the artifacts that payloads name; None where there is no artifact store.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        carbon: Carbon | None,
        reservations: Reservations | None = None,
        clock: Clock,
        limits: Limits,
        artifacts: KeptArtifacts | None = None,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._carbon = carbon
        self._reservations = reservations
        self._clock = clock
        self._limits = limits

    async def known(self, tenant: str, request_id: str, *, request_hash: str) -> Job | None:
        """Return the job that came with the request id before, or None.

        Raises:
            RequestIdReused: The id came with another job.
        """
        if not request_id:
            return None
        return await self._store.known(tenant, request_id, request_hash=request_hash)

    async def create(
        self,
        wanted: Wanted,
        *,
        tool: Tool,
        creator: Creator,
        payload: bytes,
        artifacts: Collection[str],
        request_id: str,
        request_hash: str,
    ) -> Job:
        """Keep a job; *tool* has been found for the creator, and the payload fits it.

        The artifacts that the payload names live as long as the job would that ended at its latest start.

        Raises:
            InvalidJob: Its times contradict each other, or it wants retries of a tool that is not idempotent.
            PayloadTooLarge: The payload is beyond the limit.
            NoCarbonService: It has a carbon policy, and this agent knows no carbon service.
            UnknownZone: Its carbon policy names a zone that does not exist.
            AegisError: The carbon service refuses its reservation: the pool is unknown, or full in its time.
            RequestIdReused: The request id came with another job before.
            TooManyJobs: The tenant has too many.
            StoreUnavailable: The payload names artifacts, and their store does not answer.
        """
        size, most = len(payload), self._limits.payload_bytes
        if size > most:
            raise PayloadTooLarge(
                f"the payload is {size} bytes; a job takes {most}: upload larger content as an artifact",
                size_bytes=str(size),
                max_bytes=str(most),
            )
        now = self._clock()
        spec = _spec(wanted, tool)
        _check_times(spec, now)
        job = Job(
            tenant=creator.tenant,
            job_id=new_id(now),
            spec=spec,
            principal=creator.principal,
            creator=creator.subject,
            traceparent=creator.traceparent,
            created=now,
            request_id=request_id,
            idempotent=tool.spec.idempotent,
            tool_version=tool.spec.version,
        )
        job = machine.accepted(job, now=now)
        _check_pool(job)
        reserves = self._reservations is not None and spec.reserves and job.ask_carbon_at == now
        if not reserves:
            job = await self._gated(job)
        if artifacts and self._artifacts is not None:
            until = max(now, job.wait_until or now) + self._limits.keep
            await self._artifacts.keep(job.tenant, artifacts, until=until)
        if reserves and job.latest_start is not None:
            # On disk before its place is asked for: no crash leaves a place without a job.
            job = replace(job, ask_carbon_at=min(now + _FIRST_ANSWER, job.latest_start))
        kept = await self._store.create(job, payload=payload, request_hash=request_hash)
        return await self._reserved(kept) if reserves and kept.job_id == job.job_id else kept

    async def _reserved(self, job: Job) -> Job:
        """Return a job that has just been kept, with its place in time; one that gets none is no job."""
        try:
            answer = await self._reservations.hold(job) if self._reservations is not None else None
            later = machine.asks_later(job, now=self._clock())
            if answer is None and self._carbon is not None and (policy := job.spec.carbon):
                first = await self._carbon.ask(policy, principal=job.principal, traceparent=job.traceparent)
                answer = first if later is None else None
        except AegisError as error:
            failure, now = Failure.of(error), self._clock()
            gone = await self._store.update(
                job.ref, lambda found: machine.withdrawn(found, failure, now=now), known=job
            )
            if gone is None:
                return await self._store.load(job.ref)
            await self._store.delete(gone, now=now)
            raise

        def change(found: Job) -> Job | None:
            now = self._clock()
            if answer is None:
                return machine.asks_later(found, now=now)
            return machine.carbon_answered(found, answer, now=now)

        return await self._store.update(job.ref, change, known=job) or await self._store.load(job.ref)

    async def _gated(self, job: Job) -> Job:
        """Return the job after a first question to the carbon service: a wrong zone is told at once."""
        policy = job.spec.carbon
        if policy is None:
            return job
        if self._carbon is None:
            raise NoCarbonService(
                "this agent knows no carbon service; set AEGIS_AGENT_CARBON, or leave carbon_policy out"
            )
        answer = await self._carbon.ask(policy, principal=job.principal, traceparent=job.traceparent)
        now = self._clock()
        if job.ask_carbon_at is None or job.ask_carbon_at > now:
            return job
        return machine.carbon_answered(job, answer, now=now) or job

    async def get(self, ref: JobRef) -> StoredJob:
        """Return a job with its payload, result and progress.

        Raises:
            UnknownJob: There is none.
        """
        return await self._store.load_whole(ref)

    async def page(
        self, tenant: str, *, filter_text: str, page_size: int, page_token: str
    ) -> tuple[Sequence[tuple[Job, Progress | None]], str]:
        """Return a page of the tenant's jobs, newest first, and the token of the next page.

        Raises:
            InvalidFilter: The filter cannot be read.
            InvalidPageToken: The token is broken, or of another query.
        """
        wanted = parse(filter_text)
        query = f"ListJobs/{tenant}/{filter_text}"
        before = _decode(page_token, query) if page_token else ""
        jobs, last, more = await self._scan(tenant, wanted, before, page_size or DEFAULT_PAGE_SIZE)
        progress = await self._store.progress([job.ref for job in jobs])
        return list(zip(jobs, progress, strict=True)), _encode(last, query) if more else ""

    async def _scan(self, tenant: str, wanted: Filter, before: str, size: int) -> tuple[list[Job], str, bool]:
        found: list[Job] = []
        for _ in range(_MAX_SCANNED // _SCAN):
            batch = await self._store.newest(tenant, state=wanted.state, before=before, count=_SCAN)
            for job_id, job in batch:
                if job is not None and wanted.admits(job):
                    if len(found) == size:
                        return found, before, True
                    found.append(job)
                before = job_id
            if len(batch) < _SCAN:
                return found, before, False
        return found, before, True

    async def cancel(self, ref: JobRef) -> Job:
        """Cancel a job; one that has ended stays as it is.

        Raises:
            UnknownJob: There is none.
        """
        keep, now = self._limits.keep, self._clock()
        changed = await self._store.update(ref, lambda job: machine.cancel_requested(job, keep=keep, now=now))
        return changed or await self._store.load(ref)

    async def retry(self, ref: JobRef, *, by: Creator, deadline: datetime | None) -> Job:
        """Put a failed or cancelled job into the queue again, for *by*, who may use its tool.

        Raises:
            UnknownJob: There is none.
            JobNotRetryable: It completed, has not ended, or its deadline is over.
        """
        now = self._clock()

        def again(job: Job) -> Job:
            return machine.retried(job, principal=by.principal, deadline=deadline, now=now)

        return await self._store.update(ref, again) or await self._store.load(ref)

    async def explain(self, ref: JobRef) -> Explained:
        """Return a job and why it is where it is.

        Raises:
            UnknownJob: There is none.
        """
        stored = await self._store.load_whole(ref)
        job = stored.job
        waits = job.phase is Phase.QUEUED
        ahead = await self._store.ahead(job) if waits else None
        length = await self._store.queue_length(job.spec.priority) if waits else 0
        lines = explanation(job, ahead=ahead, now=self._clock())
        return Explained(job=job, progress=stored.progress, lines=lines, queue_length=length)


def new_id(now: datetime) -> str:
    """Return an id that no other job has and that sorts by time."""
    return f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(6)}"


def _spec(wanted: Wanted, tool: Tool) -> JobSpec:
    spec, limits = wanted.spec, tool.spec
    attempts = wanted.max_attempts or (_DEFAULT_ATTEMPTS if limits.idempotent else 1)
    if attempts > 1 and not limits.idempotent:
        raise InvalidJob.field(
            "job.retry_policy.max_attempts",
            f"is too many: tool {limits.name!r} is not idempotent, it is started once; give 0 or 1",
            attempts,
        )
    retry = RetryPolicy(
        max_attempts=attempts,
        initial_backoff=spec.retry.initial_backoff,
        max_backoff=max(spec.retry.max_backoff, spec.retry.initial_backoff),
    )
    timeout = min(wanted.timeout or limits.default_timeout, limits.max_timeout)
    return replace(spec, tool=limits.name, timeout=timeout, retry=retry)


def _check_pool(job: Job) -> None:
    policy, path = job.spec.carbon, "job.carbon_policy.capacity_pool"
    if policy is None or not policy.pool:
        return
    if policy.max_intensity is not None:
        raise InvalidJob.field(
            path, "goes without max_intensity_g_per_kwh: leave one of them out", policy.pool
        )
    if job.ask_carbon_at is None:
        raise InvalidJob.field(
            path,
            "needs time to find a place in: give a max_wait above 0, a later deadline or a shorter duration",
            policy.pool,
        )


def _check_times(spec: JobSpec, now: datetime) -> None:
    if spec.not_before is not None and spec.not_before > now + MAX_AHEAD:
        raise InvalidJob.field("job.not_before", "is more than 30 days ahead", spec.not_before.isoformat())
    if spec.deadline is None:
        return
    if spec.deadline <= now:
        raise InvalidJob.field("job.deadline", "is over already", spec.deadline.isoformat())
    if spec.not_before is not None and spec.deadline <= spec.not_before:
        raise InvalidJob.field(
            "job.deadline",
            f"is not after not_before, {spec.not_before.isoformat()}",
            spec.deadline.isoformat(),
        )


def _encode(last: str, query: str) -> str:
    text = json.dumps([_digest(query), last], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(token: str, query: str) -> str:
    try:
        digest, last = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError) as error:
        raise InvalidPageToken("page_token cannot be read; take it from next_page_token") from error
    if digest != _digest(query) or not isinstance(last, str):
        raise InvalidPageToken("page_token belongs to another query; start again without one")
    return last


def _digest(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]
