"""A runner of jobs on a real Redis: what it takes, what it gives back, and what it does not hear of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from services.agent.tests.job_fleet import starts
from services.agent.tests.job_stores import (
    BOUNDS,
    KEEP,
    LEASE,
    Clock,
    eventually,
    job_of,
    keeper_of,
    queue_of,
    store_on,
    taken,
)

from aegis.agent.v1 import part_pb2
from aegis_agent import AgentManager
from aegis_agent.adapters import parts
from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs.content import encode
from aegis_agent.adapters.jobs.runner import JobRunner
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.adapters.jobs.work import Bench, Stop
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.job import Job, JobRef, Phase, State
from aegis_agent.domain.jobs.ports import Change
from aegis_agent.testing import job_tools
from aegis_common.auth.principal import Principal
from aegis_common.clock import utc_now
from aegis_common.testing.redis import RedisServer

RED = Principal(spiffe_id="", subject="alice", tenant="red", roles=frozenset()).to_record()


@pytest.fixture
async def store(shared_redis: RedisServer) -> AsyncIterator[RedisJobStore]:
    async with redis.asyncio.Redis.from_url(shared_redis.url) as client:
        await client.flushall()
    async with store_on(shared_redis.url, max_unfinished=100) as made:
        yield made


@asynccontextmanager
async def running(
    store: RedisJobStore, *, slots: int = 4, grace: float = 0.0, lease: timedelta = LEASE
) -> AsyncIterator[tuple[JobRunner, AgentManager]]:
    async with AgentManager() as manager:
        for name in ("note_again", "note_once", "one_at_a_time"):
            manager.register_tool(name, getattr(job_tools, name))
        bench = Bench(
            store=store,
            queue=queue_of(store, "a"),
            dispatcher=manager.dispatcher,
            clock=utc_now,
            runner="a",
            keep=KEEP,
            result_bytes=1 << 20,
        )
        runner = JobRunner(bench, slots=slots, lease=lease, grace=timedelta(seconds=grace))
        async with Signals(store.connection.client, on_cancel=runner.cancelled) as signals, runner:
            runner.start(signals)
            yield runner, manager


async def wanted(store: RedisJobStore, tool: str, **arguments: Any) -> Job:
    payload = encode([part_pb2.Part(json=parts.to_struct(arguments))])
    job = job_of(Clock(), tool=tool, principal=RED)
    return await store.create(job, payload=payload, request_hash="h")


async def until(store: RedisJobStore, job: Job, phase: Phase | None) -> Job:
    async def there() -> bool:
        return (await store.load(job.ref)).phase is phase

    await eventually(there)
    return await store.load(job.ref)


async def cancel(store: RedisJobStore, job: Job) -> None:
    now = utc_now()
    await store.update(job.ref, lambda job: machine.cancel_requested(job, keep=KEEP, now=now))


async def test_jobs_of_a_busy_tool_hold_no_slots_that_others_could_have(store: RedisJobStore) -> None:
    busy = [await wanted(store, "one_at_a_time", seconds=0.4) for _ in range(6)]
    quick = await wanted(store, "note_again", file="/dev/null", key="k")
    async with running(store, slots=2, grace=9.0):
        await until(store, quick, None)
        waiting = [await store.load(job.ref) for job in busy]
        assert [job.phase for job in waiting[1:]] == [Phase.QUEUED] * 5
        await until(store, busy[2], None)

    first, second = [await store.load(job.ref) for job in busy[:2]]
    assert first.ended is not None
    assert second.started is not None
    assert second.started >= first.ended


async def test_jobs_taken_in_an_answer_that_was_lost_run_all_the_same(store: RedisJobStore) -> None:
    job = await wanted(store, "note_again", file="/dev/null", key="k")
    assert len(await taken(store, "a", 1)) == 1  # and nobody heard
    async with running(store, lease=timedelta(hours=1)):
        done = await until(store, job, None)

    assert (done.state, done.attempt, done.losses) == (State.COMPLETED, 1, 0)


async def test_a_runner_that_drains_puts_back_what_it_has_not_started(
    store: RedisJobStore, tmp_path: Path
) -> None:
    runs = await wanted(store, "one_at_a_time", seconds=0.3)
    async with running(store, grace=9.0) as (runner, _):
        await until(store, runs, Phase.RUNNING)
        first = await wanted(store, "note_again", file=str(tmp_path / "x"), key="k")
        await until(store, first, None)
        runner.begin_drain()
        after = await wanted(store, "note_again", file=str(tmp_path / "y"), key="k")
    assert (await store.load(runs.ref)).state is State.COMPLETED
    assert (await store.load(after.ref)).phase is Phase.QUEUED
    assert starts(tmp_path / "y") == []
    names = await store.connection.client.xinfo_consumers(keys.RUNNING, keys.GROUP)
    assert names == []


async def test_a_job_cancelled_while_its_runner_stops_it_does_not_run_again(
    store: RedisJobStore, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    job = await wanted(store, "note_again", file=str(file), key="k", seconds=600)
    async with running(store) as (runner, _):
        await until(store, job, Phase.RUNNING)
        (work,) = runner._work.values()
        await cancel(store, job)
        work.stop(Stop.DRAINING)
        ended = await until(store, job, None)

    assert (ended.state, starts(file)) == (State.CANCELLED, ["k"])


async def test_a_job_waits_for_a_tool_that_comes_back(store: RedisJobStore) -> None:
    job = await wanted(store, "tell")
    async with running(store) as (_, manager), keeper_of(store, utc_now):
        missing = await until(store, job, Phase.DEFERRED)
        manager.register_tool("tell", job_tools.tell)
        done = await until(store, job, None)

    assert missing.obstacle is not None
    assert missing.obstacle.reason == "UNKNOWN_TOOL"
    assert (done.state, done.obstacle) == (State.COMPLETED, None)


async def test_news_of_a_cancellation_that_come_late_stop_nothing(store: RedisJobStore) -> None:
    job = await wanted(store, "note_again", file="/dev/null", key="k", seconds=0.5)
    async with running(store):
        await until(store, job, Phase.RUNNING)
        await store.connection.client.publish(keys.SIGNALS, f"{keys.CANCEL} {job.ref.member}")
        done = await until(store, job, None)

    assert (done.state, done.attempt) == (State.COMPLETED, 1)


async def test_a_cancelled_job_is_stopped_long_before_its_lease_is_renewed(store: RedisJobStore) -> None:
    job = await wanted(store, "note_once", file="/dev/null", key="k", seconds=600)
    async with running(store, lease=timedelta(hours=1)):
        await until(store, job, Phase.RUNNING)
        await cancel(store, job)
        done = await until(store, job, None)

    assert done.state is State.CANCELLED


class SlowAnswers(RedisJobStore):
    """A store whose answer to a start is late; the first cancellation of the wait is lost, if wanted."""

    def __init__(self, store: RedisJobStore, *, swallow: bool) -> None:
        super().__init__(store.connection, bounds=BOUNDS)
        self.started = asyncio.Event()
        self.swallow = swallow

    async def update(self, ref: JobRef, change: Change, **about: Any) -> Job | None:
        made = await super().update(ref, change, **about)
        if made is not None and made.phase is Phase.RUNNING and not self.started.is_set():
            self.started.set()
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                if not self.swallow:
                    raise
        return made


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_job_cancelled_while_its_start_is_written_is_not_started(
    store: RedisJobStore, tmp_path: Path, *, swallow: bool
) -> None:
    file = tmp_path / "notes"
    job = await wanted(store, "note_once", file=str(file), key="k")
    slow = SlowAnswers(store, swallow=swallow)
    async with running(slow, lease=timedelta(hours=1)):
        await slow.started.wait()
        await cancel(store, job)
        done = await until(store, job, None)

    assert (done.state, starts(file)) == (State.CANCELLED, [])


async def test_a_principal_that_cannot_be_read_fails_the_job_once(store: RedisJobStore) -> None:
    job = await store.create(
        job_of(Clock(), tool="note_again", principal='{"schema_version": 99}'), payload=b"", request_hash="h"
    )
    async with running(store):
        ended = await until(store, job, None)

    assert ended.failure is not None
    assert (ended.state, ended.failure.reason, ended.attempt) == (State.FAILED, "UNAUTHENTICATED", 0)
    assert "schema version 99" in ended.failure.message
