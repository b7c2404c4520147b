"""The job store on a real Redis: what it fences off, what waits, and what a tool tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio
from services.agent.tests.job_stores import (
    BOUNDS,
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

from aegis_agent.adapters.jobs import scripts
from aegis_agent.adapters.jobs.events import Teller, read
from aegis_agent.adapters.jobs.queue import CANCELLED, HELD, LOST
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.call import Checkpoint, Chunk, LogLine, Priority, Progress
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import (
    Fenced,
    JobStoreUnavailable,
    ResultTooLarge,
    UnknownZone,
)
from aegis_agent.domain.jobs.job import CarbonAnswer, CarbonPolicy, Phase, State
from aegis_common.testing.redis import RedisServer


@pytest.fixture
async def store(shared_redis: RedisServer) -> AsyncIterator[RedisJobStore]:
    async with redis.asyncio.Redis.from_url(shared_redis.url) as client:
        await client.flushall()
    async with store_on(shared_redis.url) as made:
        yield made


async def test_an_attempt_that_is_over_cannot_write(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock)
    (entry,) = await taken(store, "a", 4)
    first = await begin(store, job, entry, "a")
    await store.update(job.ref, lambda now: machine.lost(now, keep=KEEP, now=clock.now))
    (again,) = await taken(store, "b", 4)
    second = await begin(store, job, again, "b")
    zombie = Teller(store, job.ref, attempt=first.attempt, runner="a")
    await zombie.take(Progress(done=9))
    await zombie.take(Checkpoint(b"old"))
    await zombie.finish()

    with pytest.raises(Fenced):
        await complete(store, job, first.attempt)
    assert (await store.load_whole(job.ref)).progress is None
    assert await store.checkpoint(job.ref) is None
    done = await complete(store, job, second.attempt)
    assert done is not None
    assert (await store.load_whole(job.ref)).result == b"out"
    assert await taken(store, "c", 4) == []


async def test_two_changes_at_once_are_made_one_after_the_other(store: RedisJobStore) -> None:
    job = await kept(store, Clock())
    cancel = [
        store.update(
            job.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=now.created), known=job
        )
        for _ in range(8)
    ]
    results = await asyncio.gather(*cancel)

    assert sum(result is not None for result in results) == 1
    assert (await store.load(job.ref)).state is State.CANCELLED


async def test_a_lease_is_renewed_by_its_holder_only(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock)
    a, keeper = queue_of(store, "a"), queue_of(store, "keeper")
    (entry,) = await taken(store, "a", 1)
    started = await begin(store, job, entry, "a")

    assert await a.renew([entry]) == [HELD]
    assert await queue_of(store, "b").renew([entry]) == [LOST]
    await store.update(job.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
    assert await a.renew([entry]) == [CANCELLED]
    assert await keeper.expired(10) == []
    assert await keeper.claim(entry.entry) is None
    await asyncio.sleep(LEASE.total_seconds() + 0.1)
    assert await keeper.expired(10) == [entry.entry]
    assert await keeper.claim(entry.entry) == entry
    assert await a.renew([entry]) == [LOST]
    assert started.attempt == 1


@pytest.mark.parametrize(("idempotent", "state"), [(True, State.WORKING), (False, State.FAILED)])
async def test_the_housekeeper_finds_a_lost_runner(
    store: RedisJobStore, *, idempotent: bool, state: State
) -> None:
    clock = Clock()
    job = await kept(store, clock)
    waiting = await kept(store, clock)
    entries = await taken(store, "gone", 2)
    await begin(store, job, entries[0], "gone", idempotent=idempotent)

    async with keeper_of(store, clock):

        async def found() -> bool:
            both = [await store.load(item.ref) for item in (job, waiting)]
            return both[0].phase is not Phase.RUNNING and both[1].queue_number == 2

        await eventually(found)
    assert (await store.load(job.ref)).state is state
    left = await taken(store, "next", 4)
    assert len(left) == (2 if idempotent else 1)


async def test_deferred_jobs_become_ready_and_late_ones_fail(store: RedisJobStore) -> None:
    clock = Clock()
    soon = await kept(store, clock, not_before=clock.now + timedelta(seconds=10))
    late = await kept(
        store,
        clock,
        not_before=clock.now + timedelta(seconds=60),
        deadline=clock.now + timedelta(seconds=90),
    )
    keeper = keeper_of(store, clock)
    await keeper._promote()
    assert await taken(store, "a", 4) == []
    clock.now += timedelta(seconds=11)
    await keeper._promote()
    (entry,) = await taken(store, "a", 4)
    clock.now += timedelta(seconds=90)
    await keeper._promote()

    assert entry.ref == soon.ref
    ended = await store.load(late.ref)
    assert ended.failure is not None
    assert (ended.state, ended.failure.reason) == (State.FAILED, "JOB_DEADLINE")


class Grid:
    """Answers as it is told, and counts the questions."""

    def __init__(self) -> None:
        self.answer: CarbonAnswer | UnknownZone | None = None
        self.asked = 0

    async def ask(self, policy: CarbonPolicy, *, principal: str, traceparent: str) -> CarbonAnswer:
        self.asked += 1
        if isinstance(self.answer, CarbonAnswer):
            return self.answer
        raise self.answer or UnknownZone("no such zone")


async def test_jobs_wait_for_the_grid_until_it_is_clean_or_the_wait_is_over(store: RedisJobStore) -> None:
    clock, grid = Clock(), Grid()
    policy = CarbonPolicy(max_wait=timedelta(seconds=100))
    first = await kept(store, clock, carbon=policy)
    second = await kept(store, clock, carbon=policy)
    third = await kept(store, clock, carbon=CarbonPolicy(zone="zones/X", max_wait=timedelta(seconds=300)))
    keeper = keeper_of(store, clock, grid)
    wait = CarbonAnswer(
        run_now=False, reason="ABOVE_THRESHOLD", asked=clock.now, retry_after=timedelta(seconds=30)
    )
    grid.answer = wait
    await keeper._ask_carbon()
    assert grid.asked == 2  # one question for the two that would ask the same
    await keeper._ask_carbon()
    assert grid.asked == 2
    assert (await store.load(first.ref)).carbon_answer == CarbonAnswer(
        run_now=False, reason="ABOVE_THRESHOLD", asked=clock.now
    )
    clock.now += timedelta(seconds=31)
    grid.answer = UnknownZone("gone")
    await keeper._ask_carbon()
    await keeper._promote()
    assert (await store.load(first.ref)).phase is Phase.DEFERRED
    clock.now += timedelta(seconds=70)  # the service is gone, and the wait is over
    await keeper._promote()
    entries = await taken(store, "a", 4)
    assert {entry.ref for entry in entries} == {first.ref, second.ref}
    grid.answer = CarbonAnswer(run_now=True, reason="BELOW_THRESHOLD", asked=clock.now)
    await keeper._ask_carbon()
    assert (await store.load(third.ref)).phase is Phase.QUEUED


async def test_what_a_tool_tells_is_bounded(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock)
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a")
    teller = Teller(store, job.ref, attempt=1, runner="a")
    await teller.take(Chunk("small"))
    await teller.take(Chunk(b"x" * 40_000))
    await teller.take(LogLine(level="INFO", message="m" * 9_000))
    for number in range(50):
        await teller.take(Progress(done=number, total=50))
    await teller.finish()
    told = await read(store, job.ref, after="0-0", count=99)

    assert [event.kind for event in told] == ["state", "state", "chunk", "chunk", "log", "progress"]
    assert max(len(event.data) for event in told[2:]) < 3_000
    assert teller.chunks == ["small", b"x" * 40_000]
    with pytest.raises(ResultTooLarge):
        for _ in range(9):
            await teller.take(Chunk(b"x" * (1 << 20)))


class LostAnswer(RedisJobStore):
    """A store that does what it is asked, and whose first answer about events is lost."""

    lost = False

    async def eval(self, script: str, names: Sequence[str], *arguments: Any) -> Any:
        answer = await super().eval(script, names, *arguments)
        if script == scripts.TELL and not self.lost:
            self.lost = True
            raise JobStoreUnavailable.because("the answer was lost")
        return answer


async def test_events_whose_answer_was_lost_are_told_once(store: RedisJobStore) -> None:
    job = await kept(store, Clock())
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a")
    teller = Teller(LostAnswer(store.connection, bounds=BOUNDS), job.ref, attempt=1, runner="a")
    await teller.take(LogLine(level="INFO", message="one"))
    await teller.finish()  # told, and nobody heard
    await teller.take(LogLine(level="INFO", message="two"))
    await teller.finish()
    await teller.take(LogLine(level="INFO", message="three"))
    await teller.finish()
    told = [event.data for event in await read(store, job.ref, after="0-0", count=99) if event.kind == "log"]

    assert told == [b'["INFO", "one"]', b'["INFO", "two"]', b'["INFO", "three"]']


async def test_an_entry_of_an_older_time_leads_nowhere(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock)
    (stale,) = await taken(store, "a", 4)
    await store.update(job.ref, lambda now: machine.cancel_requested(now, keep=KEEP, now=clock.now))
    await store.update(
        job.ref, lambda now: machine.retried(now, principal="{}", deadline=None, now=clock.now)
    )
    (fresh,) = await taken(store, "a", 4)

    now = await store.load(job.ref)
    assert (stale.leads_to(now), fresh.leads_to(now)) == (False, True)
    assert await store.queue_length(Priority.NORMAL) == 0
