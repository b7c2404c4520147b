"""What the job store forgets to make room, and what it keeps and leaves alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import redis.asyncio
from services.agent.tests.job_stores import (
    KEEP,
    Clock,
    begin,
    complete,
    job_of,
    keeper_of,
    kept,
    store_on,
    taken,
)

from aegis_agent.adapters.jobs import housekeeper, keys
from aegis_agent.adapters.jobs.events import Teller
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.call import Checkpoint
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import (
    TooManyJobs,
    UnknownJob,
    UnreadableJob,
)
from aegis_agent.domain.jobs.job import Job, Phase, State
from aegis_common.testing.redis import RedisServer


@pytest.fixture
async def store(shared_redis: RedisServer) -> AsyncIterator[RedisJobStore]:
    async with redis.asyncio.Redis.from_url(shared_redis.url) as client:
        await client.flushall()
    async with store_on(shared_redis.url) as made:
        yield made


async def test_ended_jobs_are_deleted_with_everything_of_theirs(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock, request_id="r1")
    again = await kept(store, clock)
    for item in (job, again):
        await store.update(item.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
    keeper = keeper_of(store, clock)
    clock.now += KEEP - timedelta(seconds=1)
    await keeper._delete()
    assert (await store.load(job.ref)).state is State.CANCELLED
    await store.update(
        again.ref, lambda now: machine.retried(now, principal="{}", deadline=None, now=clock.now)
    )
    clock.now += timedelta(seconds=2)
    await keeper._delete()

    with pytest.raises(UnknownJob):
        await store.load(job.ref)
    assert (await store.load(again.ref)).phase is Phase.QUEUED
    left = [str(key) for key in await store.connection.client.keys("*")]
    assert not [key for key in left if job.job_id in key or "r1" in key]
    assert [job_id for job_id, _ in await store.newest("red", state=None, before="", count=9)] == [
        again.job_id
    ]


async def test_who_creates_and_cancels_for_ever_keeps_the_newest_jobs(shared_redis: RedisServer) -> None:
    clock = Clock()
    async with store_on(shared_redis.url, max_ended=3) as store:
        await store.connection.client.flushall()
        other = await kept(store, clock, tenant="blue")
        await store.update(other.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
        waits = await kept(store, clock)
        jobs = []
        for number in range(6):
            clock.now += timedelta(seconds=1)
            jobs.append(await kept(store, clock, request_id=f"r{number}"))
            await store.update(
                jobs[-1].ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now)
            )
        newest = await store.newest("red", state=None, before="", count=9)
        left = [key.decode() async for key in store.connection.client.scan_iter("*")]

        assert [job_id for job_id, _ in newest] == [job.job_id for job in (*jobs[:2:-1], waits)]
        assert (await store.load(other.ref)).state is State.CANCELLED
        assert not [key for key in left for job in jobs[:3] if job.job_id in key]
        assert sorted(key[-2:] for key in left if ":request:" in key) == ["r3", "r4", "r5"]
        again = await store.update(
            jobs[3].ref, lambda now: machine.retried(now, principal="{}", deadline=None, now=clock.now)
        )
        assert again is not None
        await store.update(waits.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
        assert (await store.load(jobs[4].ref)).has_ended
        with pytest.raises(UnknownJob):
            await store.load(jobs[2].ref)


async def test_old_results_make_room_and_what_is_new_or_has_not_ended_stays(
    shared_redis: RedisServer,
) -> None:
    clock = Clock()
    clock.now -= timedelta(hours=1)
    own: RedisJobStore

    async def made(size: int, tenant: str = "red") -> Job:
        clock.now += timedelta(seconds=1)
        return await own.create(job_of(clock, tenant=tenant), payload=b"x" * size, request_hash="h")

    async def held() -> int:
        return int(await own.connection.client.hget(f"{keys.PREFIX}bytes", "red") or 0)

    async with store_on(shared_redis.url, max_bytes=1000) as own:
        await own.connection.client.flushall()
        first = await made(300)
        (entry,) = await taken(own, "a", 1)
        await begin(own, first, entry, "a")
        teller = Teller(own, first.ref, attempt=1, runner="a")
        await teller.take(Checkpoint(b"y" * 100))
        await teller.take(Checkpoint(b"y" * 50))
        assert await held() == 350
        await complete(own, first, 1)
        assert await held() == 303
        stays = await made(400)
        await made(900, tenant="blue")
        last = await made(400)
        assert await held() == 800
        with pytest.raises(UnknownJob):
            await own.load(first.ref)
        with pytest.raises(TooManyJobs) as caught:
            await made(201)
        assert caught.value.metadata["max_bytes"] == "1000"
        clock.now += timedelta(hours=1)
        await own.update(last.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
        with pytest.raises(TooManyJobs):
            await made(201)
        clock.now -= timedelta(hours=1)
        await own.update(stays.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
        await made(201)

        assert (await own.load(last.ref)).has_ended
        assert await held() == 601


async def test_jobs_that_cannot_be_read_hold_up_no_others(
    store: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "_BATCH", 2)
    clock = Clock()
    jobs = [await kept(store, clock, not_before=clock.now + timedelta(seconds=n + 1)) for n in range(5)]
    for job in jobs[:3]:
        await store.connection.client.hset(keys.job(job.ref), "record", "junk")
    clock.now += timedelta(seconds=9)
    await keeper_of(store, clock)._promote()

    assert {entry.ref for entry in await taken(store, "a", 9)} == {job.ref for job in jobs[3:]}


async def test_a_tenant_has_its_own_jobs_and_so_many_of_them(store: RedisJobStore) -> None:
    clock = Clock()
    mine = [await kept(store, clock) for _ in range(5)]
    with pytest.raises(TooManyJobs):
        await kept(store, clock)
    other = await kept(store, clock, tenant="blue")

    assert {job_id for job_id, _ in await store.newest("red", state=None, before="", count=9)} == {
        job.job_id for job in mine
    }
    assert [job_id for job_id, _ in await store.newest("blue", state=None, before="", count=9)] == [
        other.job_id
    ]
    await store.update(mine[0].ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
    await kept(store, clock)


async def test_a_record_of_a_newer_version_is_left_alone(store: RedisJobStore) -> None:
    clock = Clock()
    job, good = await kept(store, clock), await kept(store, clock)
    key = keys.job(job.ref)
    record = await store.connection.client.hget(key, "record")
    assert isinstance(record, bytes)
    newer = record.replace(b'"schema_version":1', b'"schema_version":7')
    await store.connection.client.hset(key, "record", newer)

    with pytest.raises(UnreadableJob) as caught:
        await store.load(job.ref)
    assert caught.value.metadata == {"schema_version": "7"}
    listed = await store.newest("red", state=None, before="", count=9)
    assert {job_id for job_id, item in listed if item is not None} == {good.job_id}
    assert await store.connection.client.hget(key, "record") == newer
