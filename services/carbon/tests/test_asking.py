"""One question for all processes that share a cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import pytest
from redis.asyncio import Redis

from aegis_carbon.adapters.redis_cache import RedisCache, connect
from aegis_carbon.domain.asking import Asking, LookupPolicy, Question
from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.providers import CacheEntry, CacheKey, Topic
from aegis_carbon.domain.schedule import Decision
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.series import series
from aegis_common.testing.redis import RedisServer

KEY: Final = CacheKey("uk", "GB", Topic.PAST)
GUARD_S: Final = 10.0


class Unobserved:
    def asked(self, key: CacheKey, outcome: str, seconds: float) -> None: ...

    def decided(self, decision: Decision) -> None: ...


class Refusing(RedisCache):
    """Says when it refused a lease, for another process has it."""

    def __init__(self, client: Redis, clock: ManualClock, refused: asyncio.Event) -> None:
        super().__init__(client, clock=clock, on_fault=lambda _: None)
        self._refused = refused

    async def acquire(self, key: CacheKey, *, hold: timedelta) -> str | None:
        lease = await super().acquire(key, hold=hold)
        if lease is None:
            self._refused.set()
        return lease


@pytest.fixture
def refused() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def processes(
    redis: RedisServer, clock: ManualClock, refused: asyncio.Event
) -> AsyncIterator[tuple[Asking, Asking]]:
    client = connect(redis.url)
    policy = LookupPolicy(budget=timedelta(seconds=10 * GUARD_S))

    def made() -> Asking:
        cache = Refusing(client, clock, refused)
        return Asking(cache, policy=policy, clock=clock, observer=Unobserved())

    yield made(), made()
    await client.aclose()


async def test_a_part_of_a_history_is_an_answer_for_the_other_process_too(
    processes: tuple[Asking, Asking], clock: ManualClock, refused: asyncio.Event
) -> None:
    """The rest is asked for with the next question, so it is due again at once."""
    asked, told, count = asyncio.Event(), asyncio.Event(), 0

    async def ask(_: Known | None) -> Known:
        nonlocal count
        count += 1
        asked.set()
        if count > 1:
            await told.wait()
        return Known(series=series([count]), source="uk", quality=Quality.ACTUAL, issued_at=clock())

    question = Question(ask, ask_after=lambda _: clock(), keep=lambda _: timedelta(days=1))

    async def answer(process: Asking) -> CacheEntry[Known] | None:
        return await process.answer(KEY, question, wait=GUARD_S, enough=lambda _: False)

    await answer(processes[0])
    clock.move(hours=1)
    asked.clear()
    async with asyncio.timeout(GUARD_S):
        one = asyncio.create_task(answer(processes[0]))
        await asked.wait()
        two = asyncio.create_task(answer(processes[1]))
        await refused.wait()
        told.set()
        found = await asyncio.gather(one, two)

    values = [entry.value for entry in found if entry is not None]
    assert [2.0, 2.0] == [float(value.series.values[0]) for value in values if value is not None]
    assert 2 == count
