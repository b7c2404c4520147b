"""The queues of jobs on a real Redis: whose turn it is, what is passed over, and what nobody takes along."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from services.agent.tests.job_stores import (
    KEEP,
    LEASE,
    Clock,
    begin,
    complete,
    eventually,
    keeper_of,
    kept,
    queue_of,
    store_on,
    taken,
)

from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs.queue import Entry
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.call import Priority
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.job import MAX_LOSSES, Job, State
from aegis_agent.domain.rooms import Rooms
from aegis_common.testing.redis import RedisServer


@pytest.fixture
async def store(shared_redis: RedisServer) -> AsyncIterator[RedisJobStore]:
    async with redis.asyncio.Redis.from_url(shared_redis.url) as client:
        await client.flushall()
    async with store_on(shared_redis.url, max_unfinished=100) as made:
        yield made


def tenants(entries: list[Entry]) -> Counter[str]:
    return Counter(entry.ref.tenant for entry in entries)


async def many(store: RedisJobStore, count: int, **fields: object) -> list[Job]:
    return [await kept(store, Clock(), **fields) for _ in range(count)]


async def test_a_tenant_that_fills_its_queue_leaves_the_others_their_slots(store: RedisJobStore) -> None:
    await many(store, 20, tenant="red")
    await many(store, 3, tenant="blue")

    assert tenants(await taken(store, "a", 4)) == {"red": 2, "blue": 2}
    assert tenants(await taken(store, "b", 4)) == {"red": 3, "blue": 1}


async def test_slots_are_shared_by_weight(store: RedisJobStore) -> None:
    for tenant in ("red", "blue"):
        await many(store, 20, tenant=tenant)

    entries = list((await queue_of(store, "a", red=3.0).take(8)).entries)
    assert tenants(entries) == {"red": 6, "blue": 2}


async def test_who_holds_slots_for_long_waits_for_those_who_hold_none(store: RedisJobStore) -> None:
    await many(store, 20, tenant="red")
    long = await taken(store, "a", 4)
    await many(store, 4, tenant="blue")
    for entry in long[:2]:
        await queue_of(store, "a").drop(entry)

    assert tenants(await taken(store, "a", 2)) == {"blue": 2}


async def test_of_one_slot_tenants_have_the_same_time(store: RedisJobStore) -> None:
    await many(store, 20, tenant="red")
    await many(store, 20, tenant="blue")
    served, queue = "", queue_of(store, "a")
    for _ in range(12):
        (entry,) = (await queue.take(1)).entries
        served += entry.ref.tenant[0]
        await asyncio.sleep(0.15 if entry.ref.tenant == "red" else 0.0)
        await queue.drop(entry)

    assert 1 <= served.count("r") <= 5
    await many(store, 1, tenant="green")  # it has saved up nothing, and waits for nobody for long
    later = [(await queue.take(1)).entries[0] for _ in range(3)]
    assert "green" in tenants(later)


async def test_classes_go_in_order_inside_a_tenant(store: RedisJobStore) -> None:
    await many(store, 30, tenant="red", priority=Priority.HIGH)
    low = await many(store, 1, tenant="red", priority=Priority.LOW)
    await many(store, 2, tenant="blue", priority=Priority.LOW)

    first = await taken(store, "a", 4)
    assert tenants(first) == {"red": 2, "blue": 2}
    rest = await taken(store, "a", 10)
    assert [entry.ref for entry in rest].index(low[0].ref) == 7  # the tenth turn of red is low's


async def test_a_tool_without_room_holds_up_nobody(store: RedisJobStore) -> None:
    busy = await many(store, 5, tool="busy")
    free = await many(store, 2, tool="free")
    own = await many(store, 1, tool="own")
    rooms = Rooms({("", "busy"): 0, ("", "free"): 9, ("red", "own"): 0})

    some = await queue_of(store, "a").take(4, rooms)
    assert ([entry.ref for entry in some.entries], some.held_up) == ([job.ref for job in free], True)
    rooms = Rooms({("", "busy"): 2, ("red", "own"): 1})
    some = await queue_of(store, "a").take(4, rooms)
    assert [entry.ref for entry in some.entries] == [job.ref for job in (*busy[:2], *own)]
    assert some.held_up
    assert await store.ahead(busy[4]) == 2
    assert await store.ahead(busy[0]) is None


async def test_shared_slots_bound_the_tools_that_need_them_together(store: RedisJobStore) -> None:
    children = [(await many(store, 2, tool=tool))[0] for tool in ("one", "two")]
    (loop,) = await many(store, 1, tool="loop")
    all_of = {("", name): 5 for name in ("one", "two", "loop")}
    rooms = Rooms(all_of, {("", "one"), ("", "two")}, 1)

    some = await queue_of(store, "a").take(5, rooms)
    assert [entry.ref for entry in some.entries] == [children[0].ref, loop.ref]


async def test_of_a_tool_that_the_process_lacks_one_job_at_a_time_is_taken(store: RedisJobStore) -> None:
    await many(store, 3, tool="elsewhere")

    assert len((await queue_of(store, "a").take(4, Rooms())).entries) == 1


async def test_jobs_of_a_tool_that_another_process_has_are_left_to_it(store: RedisJobStore) -> None:
    (job,) = await many(store, 1, tool="there")
    (own,) = await many(store, 1, tool="own")
    await queue_of(store, "a").announce([("", "there"), ("red", "own"), ("blue", "x")])

    some = await queue_of(store, "b").take(4, Rooms())
    assert (list(some.entries), some.held_up) == ([], False)
    rooms = Rooms({("", "there"): 1, ("red", "own"): 1})
    some = await queue_of(store, "a").take(4, rooms)
    assert [entry.ref for entry in some.entries] == [job.ref, own.ref]
    (late,) = await many(store, 1, tool="there")
    await store.connection.client.zadd(f"{keys.PREFIX}tools", {"/there": 1.0})  # not said for long
    assert [entry.ref for entry in (await queue_of(store, "b").take(4, Rooms())).entries] == [late.ref]


async def test_a_runner_is_not_removed_with_what_it_holds(store: RedisJobStore) -> None:
    job = await kept(store, Clock())
    a = queue_of(store, "a")
    (entry,) = (await a.take(1)).entries
    await a.leave()
    await queue_of(store, "b").forget()

    assert await a.held() == [entry]
    await asyncio.sleep(LEASE.total_seconds() + 0.05)
    assert await queue_of(store, "keeper").expired(9) == [entry.entry]
    done = await complete(store, await begin(store, job, entry, "a"), 1)
    assert done is not None
    await a.leave()
    names = [item["name"] for item in await store.connection.client.xinfo_consumers(keys.RUNNING, keys.GROUP)]
    assert b"a" not in names


async def test_what_is_put_back_keeps_its_place(store: RedisJobStore) -> None:
    clock = Clock()
    first, second, third = await many(store, 3)
    entries = await taken(store, "a", 2)
    await begin(store, first, entries[0], "a")
    await store.update(second.ref, machine.queued, drop=entries[1].entry)
    await store.update(
        first.ref,
        lambda now: machine.handed_back(now, 1, keep=KEEP, now=clock.now),
        drop=entries[0].entry,
    )

    assert [entry.ref for entry in await taken(store, "b", 3)] == [first.ref, second.ref, third.ref]


async def test_a_cancelled_job_leaves_the_queue_at_once(store: RedisJobStore) -> None:
    first, second = await many(store, 2)
    await store.update(first.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=now.created))

    assert await store.queue_length(Priority.NORMAL) == 1
    assert [entry.ref for entry in await taken(store, "a", 3)] == [second.ref]


async def test_a_job_that_ends_its_runners_before_it_starts_ends_itself(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock)
    for number in range(MAX_LOSSES + 1):
        now = await store.load(job.ref)
        entries = await taken(store, f"r{number}", 1)
        await store.update(
            job.ref,
            lambda now: machine.never_started(now, now.queue_number, keep=KEEP, now=clock.now),
            known=now,
            drop=entries[0].entry,
        )

    ended = await store.load(job.ref)
    assert ended.failure is not None
    assert (ended.state, ended.failure.reason, ended.attempt) == (State.FAILED, "WORKER_LOST", 0)
    left = {str(key) for key in await store.connection.client.keys("agent:jobs:*queue*")}
    assert left == set()


async def test_leases_outlive_a_jump_of_the_clock_of_redis(store: RedisJobStore) -> None:
    job = await kept(store, Clock())
    a = queue_of(store, "a")
    (entry,) = (await a.take(1)).entries
    await begin(store, job, entry, "a", idempotent=False)
    jumped = int(LEASE.total_seconds() * 5000)
    async with keeper_of(store, Clock()) as keeper:
        await eventually(lambda: steady(store))
        # As XPENDING shows it after a jump: not seen for five leases, until it is renewed the next time.
        await store.connection.client.xclaim(
            keys.RUNNING, keys.GROUP, "a", 0, [entry.entry], idle=jumped, justid=True
        )
        await keeper._sweep()
        await a.renew([entry])
        await asyncio.sleep(LEASE.total_seconds() / 2)
        await keeper._sweep()

    assert (await store.load(job.ref)).runs


async def steady(store: RedisJobStore) -> bool:
    return store.connection.steady_for() > LEASE.total_seconds()
