"""Job stores on a Redis, and steps in the life of a job, for tests of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aegis_agent.adapters.jobs.connection import Connection, connect
from aegis_agent.adapters.jobs.effects import Bounds
from aegis_agent.adapters.jobs.housekeeper import Housekeeper
from aegis_agent.adapters.jobs.queue import Entry, RunnerQueue
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.job import Job, JobSpec
from aegis_agent.domain.jobs.service import new_id
from aegis_agent.domain.rooms import Rooms

LEASE = timedelta(seconds=1)
KEEP = timedelta(days=7)
BOUNDS = Bounds(unfinished=100, ended=500, bytes=1 << 20)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # the store has no event for it
            await asyncio.sleep(0.05)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def store_on(
    url: str, *, max_unfinished: int = 5, max_ended: int = BOUNDS.ended, max_bytes: int = BOUNDS.bytes
) -> AsyncIterator[RedisJobStore]:
    async with connect(url) as client:
        connection = Connection(client, slow_s=LEASE.total_seconds() / 2)
        await connection.check(strict=False)
        made = RedisJobStore(
            connection, bounds=Bounds(unfinished=max_unfinished, ended=max_ended, bytes=max_bytes)
        )
        yield made


def job_of(
    clock: Clock,
    *,
    tenant: str = "red",
    request_id: str = "",
    tool: str = "t",
    principal: str = "{}",
    **spec: Any,
) -> Job:
    job = Job(
        tenant=tenant,
        job_id=new_id(clock.now),
        spec=JobSpec(tool=tool, timeout=timedelta(seconds=10), **spec),
        principal=principal,
        creator="alice",
        traceparent="",
        created=clock.now,
        request_id=request_id,
        idempotent=True,
    )
    return machine.accepted(job, now=clock.now)


async def kept(store: RedisJobStore, clock: Clock, **fields: Any) -> Job:
    return await store.create(job_of(clock, **fields), payload=b"in", request_hash="h")


def queue_of(store: RedisJobStore, runner: str, **weights: float) -> RunnerQueue:
    return RunnerQueue(store, runner=runner, lease=LEASE, weights=weights)


async def taken(store: RedisJobStore, runner: str, slots: int, rooms: Rooms | None = None) -> list[Entry]:
    return list((await queue_of(store, runner).take(slots, rooms)).entries)


def keeper_of(store: RedisJobStore, clock: Callable[[], datetime], carbon: Any = None) -> Housekeeper:
    return Housekeeper(
        store,
        queue_of(store, "keeper"),
        carbon=carbon,
        clock=clock,
        holder="keeper",
        lease=LEASE,
        keep=KEEP,
    )


async def begin(store: RedisJobStore, job: Job, entry: Entry, runner: str, *, idempotent: bool = True) -> Job:
    def change(now: Job) -> Job:
        return machine.started(
            now,
            runner=runner,
            entry=entry.entry,
            queue_number=entry.number,
            idempotent=idempotent,
            tool_version="1",
            now=now.created,
        )

    started = await store.update(job.ref, change)
    assert started is not None
    return started


async def complete(store: RedisJobStore, job: Job, attempt: int) -> Job | None:
    def change(now: Job) -> Job:
        return machine.completed(now, attempt, model_version="", warnings=(), keep=KEEP, now=now.created)

    return await store.update(job.ref, change, result=b"out")
