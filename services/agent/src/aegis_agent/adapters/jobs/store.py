"""Jobs in Redis: a `JobStore` of the domain, and what the runner and the housekeepers need besides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from redis.exceptions import ResponseError

from aegis_agent.adapters.jobs import effects, keys, queue_scripts, scripts
from aegis_agent.adapters.jobs.connection import Connection
from aegis_agent.adapters.jobs.effects import Bounds
from aegis_agent.adapters.jobs.records import from_record, read_progress
from aegis_agent.adapters.jobs.usage import Accounts
from aegis_agent.domain.call import Priority, Progress
from aegis_agent.domain.jobs.errors import (
    JobStoreUnavailable,
    RequestIdReused,
    TooManyJobs,
    UnknownJob,
    UnreadableJob,
)
from aegis_agent.domain.jobs.job import Job, JobRef, State
from aegis_agent.domain.jobs.ports import Change, StoredJob

_RECORD: Final = ("record", "revision")
T = TypeVar("T")
_log: Final = logging.getLogger(__name__)
_WHOLE: Final = ("record", "revision", "payload", "result", "progress")


class RedisJobStore:
    """Keeps jobs in Redis, under the keys that `keys` lists.

    Args:
        connection: To Redis.
        bounds: Of the jobs of one tenant.
        accounts: How usage is noted for the ledger; None where there is none.
    """

    def __init__(self, connection: Connection, *, bounds: Bounds, accounts: Accounts | None = None) -> None:
        self.connection: Final = connection
        self._bounds = bounds
        self._accounts = accounts

    async def eval(self, script: str, names: Sequence[str], *arguments: Any) -> Any:
        """Run a script over keys; see `Connection.run` for what it raises."""

        def work(client: Any) -> Awaitable[Any]:
            return cast("Awaitable[Any]", client.eval(script, len(names), *names, *arguments))

        return await self.connection.run(work)

    async def known(self, tenant: str, request_id: str, *, request_hash: str) -> Job | None:
        seen = await self.connection.run(lambda client: client.get(keys.request(tenant, request_id)))
        try:
            return None if seen is None else await self._seen(tenant, seen, request_id, request_hash)
        except UnknownJob:
            return None  # deleted in the same moment, and its request with it

    async def create(self, job: Job, *, payload: bytes, request_hash: str) -> Job:
        job = replace(job, revision=1)
        request, bounds = keys.request(job.tenant, job.request_id) if job.request_id else "", self._bounds
        made = effects.commands(None, job, bounds=bounds)
        made.append(("PUT_FIELD", job.tenant, keys.job(job.ref), "payload", payload))
        answer = await self.eval(
            scripts.CREATE,
            (keys.job(job.ref), request, keys.index(job.tenant, State.WORKING)),
            f"{job.job_id} {request_hash}",
            *(bounds.unfinished, job.tenant, bounds.ended, bounds.bytes, len(payload)),
            *effects.flat(made),
        )
        if answer in (b"full", b"heavy"):
            raise _too_many(job.tenant, bounds, heavy=answer == b"heavy")
        return job if not answer else await self._seen(job.tenant, answer, job.request_id, request_hash)

    async def _seen(self, tenant: str, value: bytes, request_id: str, request_hash: str) -> Job:
        job_id, _, seen_hash = value.decode().partition(" ")
        if seen_hash != request_hash:
            raise RequestIdReused(
                f"request_id {request_id} came with another job before; use a new one for a new job",
                request_id=request_id,
                job=f"jobs/{job_id}",
            )
        return await self.load(JobRef(tenant=tenant, job_id=job_id))

    async def load(self, ref: JobRef) -> Job:
        fields = await self.connection.run(lambda client: client.hmget(keys.job(ref), _RECORD))
        return _job(ref, fields)

    async def load_whole(self, ref: JobRef) -> StoredJob:
        fields = await self.connection.run(lambda client: client.hmget(keys.job(ref), _WHOLE))
        return StoredJob(
            job=_job(ref, fields),
            payload=fields[2] or b"",
            result=fields[3] or b"",
            progress=read_progress(fields[4]),
        )

    async def checkpoint(self, ref: JobRef) -> bytes | None:
        """Return what an attempt of the job saved last, or None."""
        found: bytes | None = await self.connection.run(
            lambda client: cast("Awaitable[Any]", client.hget(keys.job(ref), "checkpoint"))
        )
        return found

    async def newest(
        self, tenant: str, *, state: State | None, before: str, count: int
    ) -> Sequence[tuple[str, Job | None]]:
        ids: list[bytes] = await self.connection.run(
            lambda client: client.zrevrangebylex(
                keys.index(tenant, state), f"({before}" if before else "+", "-", start=0, num=count
            )
        )
        refs = [JobRef(tenant=tenant, job_id=item.decode()) for item in ids]
        jobs = await self.load_many(refs)
        return [
            (ref.job_id, job if isinstance(job, Job) else None) for ref, job in zip(refs, jobs, strict=True)
        ]

    async def load_many(self, refs: Sequence[JobRef]) -> list[Job | UnreadableJob | None]:
        """Return the jobs; None for each that is gone, and the error for each that cannot be read."""
        rows = await self._rows(refs, _RECORD)
        return [_job_or_error(ref, row) for ref, row in zip(refs, rows, strict=True)]

    async def progress(self, refs: Sequence[JobRef]) -> Sequence[Progress | None]:
        return [read_progress(row[0]) for row in await self._rows(refs, ("progress",))]

    async def _rows(self, refs: Sequence[JobRef], fields: Sequence[str]) -> list[list[bytes | None]]:
        if not refs:
            return []

        async def work(client: Any) -> list[list[bytes | None]]:
            async with client.pipeline(transaction=False) as pipe:
                for ref in refs:
                    pipe.hmget(keys.job(ref), fields)
                return cast("list[list[bytes | None]]", await pipe.execute())

        return await self.connection.run(work)

    async def update(
        self,
        ref: JobRef,
        change: Change,
        *,
        known: Job | None = None,
        result: bytes | None = None,
        drop: str = "",
    ) -> Job | None:
        """Change a job; as `JobStore.update`.

        Args:
            ref: The job.
            change: Says what it becomes.
            known: The job as it was last seen.
            result: Encoded result to keep with it.
            drop: Entry of a runner to remove in the same step, or empty.
        """
        job = known or await self.load(ref)
        while True:
            wanted = change(job)
            if wanted is None:
                return None
            wanted = replace(wanted, revision=job.revision + 1)
            effect = effects.commands(
                job, wanted, bounds=self._bounds, result=result, drop=drop, accounts=self._accounts
            )
            made = effects.flat(effect)
            if await self.eval(scripts.COMMIT, (keys.job(ref),), job.revision, *made):
                return wanted
            # Somebody was quicker, or it was ourselves and the answer was lost: *change* decides anew.
            job = await self.load(ref)

    async def delete(self, job: Job, *, now: datetime) -> None:
        """Delete an ended job whose retention is over; one that was retried meanwhile stays."""
        await self.eval(scripts.DELETE, (keys.EXPIRY,), job.tenant, job.job_id, keys.score(now))

    async def drop_member(self, key: str, member: str) -> None:
        """Take a job that is gone out of a sorted set."""
        await self.connection.run(lambda client: client.zrem(key, member))

    async def due(self, key: str, *, now: datetime, count: int) -> list[JobRef]:
        """Return the jobs of a sorted set whose time has come, earliest first."""
        found: list[bytes] = await self.connection.run(
            lambda client: client.zrangebyscore(key, "-inf", keys.score(now), start=0, num=count)
        )
        return [JobRef.of_member(item.decode()) for item in found]

    async def queue_length(self, priority: Priority) -> int:
        found = await self.connection.run(
            lambda client: client.hget(keys.WAITING, keys.queue_class(priority))
        )
        return int(found or 0)

    async def ahead(self, job: Job) -> int | None:
        place: int = await self.eval(queue_scripts.PLACE, (), *effects.place_of(job))
        return place if place >= 0 else None


async def no_group(work: Awaitable[T], *, otherwise: T) -> T:
    """Return what *work* gives, or *otherwise* where no job has ever been taken."""
    try:
        return await work
    except ResponseError as error:
        if "NOGROUP" not in str(error):
            raise
        return otherwise


def _too_many(tenant: str, bounds: Bounds, *, heavy: bool) -> TooManyJobs:
    if heavy:
        return TooManyJobs(
            f"the jobs of tenant {tenant!r} that have not ended, or in the last ten minutes, hold more than "
            f"{bounds.bytes} bytes with this one; wait, or upload large content as artifacts",
            tenant=tenant,
            max_bytes=str(bounds.bytes),
        )
    return TooManyJobs(
        f"tenant {tenant!r} has {bounds.unfinished} unfinished jobs; wait for some to end",
        tenant=tenant,
        limit=str(bounds.unfinished),
    )


def _job(ref: JobRef, fields: Sequence[bytes | None]) -> Job:
    record, revision = fields[0], fields[1]
    if record is None or revision is None:
        raise UnknownJob.named(ref.job_id)
    return from_record(record, int(revision))


def _job_or_error(ref: JobRef, fields: Sequence[bytes | None]) -> Job | UnreadableJob | None:
    try:
        return _job(ref, fields)
    except UnknownJob:
        return None
    except UnreadableJob as error:
        _log.error("job %s cannot be read: %s", ref.member, error.message)
        return error


async def insist(work: Any, *, pause_s: float = 0.2) -> Any:
    """Return what *work* gives, trying again until the store answers: for what must not be given up."""
    while True:
        try:
            return await work()
        except JobStoreUnavailable:
            await asyncio.sleep(pause_s)
