"""The caches: one contract over memory and Redis, and what happens while Redis is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aegis_carbon.adapters.memory_cache import MemoryCache
from aegis_carbon.adapters.records import UnreadableRecord, from_record, to_record
from aegis_carbon.adapters.redis_cache import PAUSE_S, RedisCache, connect
from aegis_carbon.domain.intensity import AverageIntensity, Intensity, MarginalIntensity, Quality, Signal
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.providers import CacheEntry, CacheKey, IntensityCache, Topic
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.series import series
from aegis_common.testing.redis import RedisServer

KEY = CacheKey("uk", "GB")
START = datetime(2026, 3, 4, 10, tzinfo=UTC)
LONG = timedelta(hours=1)


def entry(value: float = 120, fault: str = "") -> CacheEntry[Intensity]:
    end = START + timedelta(minutes=30)
    found = AverageIntensity(
        "GB", value, START, end, Quality.FORECAST, "uk", START + timedelta(microseconds=7)
    )
    return CacheEntry(found, START + timedelta(minutes=5), fault)


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture
async def shared(redis: RedisServer, clock: ManualClock, faults: list[str]) -> AsyncIterator[RedisCache]:
    client = connect(redis.url)
    yield RedisCache(client, clock=clock, on_fault=faults.append)
    await client.aclose()


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, clock: ManualClock) -> IntensityCache:
    if request.param == "memory":
        return MemoryCache(clock)
    found: IntensityCache = request.getfixturevalue("shared")
    return found


class TestCache:
    async def test_it_gives_back_what_was_put(self, cache: IntensityCache) -> None:
        await cache.put(KEY, entry(), keep=LONG)

        assert entry() == await cache.get(KEY)
        assert await cache.get(CacheKey("uk", "GB-london")) is None
        assert await cache.get(CacheKey("replay", "GB")) is None

    async def test_a_later_entry_replaces_the_one_before(self, cache: IntensityCache) -> None:
        await cache.put(KEY, entry(120), keep=LONG)
        await cache.put(KEY, CacheEntry(None, START, "HTTP_500"), keep=LONG)

        assert CacheEntry(None, START, "HTTP_500") == await cache.get(KEY)

    async def test_an_entry_lasts_as_long_as_asked(self, cache: IntensityCache, clock: ManualClock) -> None:
        await cache.put(KEY, entry(), keep=timedelta(milliseconds=20))
        clock.move(seconds=1)
        await asyncio.sleep(0.1)

        assert await cache.get(KEY) is None

    async def test_a_lease_can_be_had_again_after_its_release(self, cache: IntensityCache) -> None:
        lease = await cache.acquire(KEY, hold=LONG)
        assert lease is not None
        await cache.release(KEY, lease)

        assert await cache.acquire(KEY, hold=LONG) is not None


async def test_one_replica_at_a_time_has_the_lease(shared: RedisCache) -> None:
    assert await shared.acquire(KEY, hold=LONG) is not None
    assert await shared.acquire(KEY, hold=LONG) is None
    assert await shared.acquire(CacheKey("uk", "GB-london"), hold=LONG) is not None


async def test_a_lease_ends_by_itself_and_its_old_owner_cannot_end_the_new_one(shared: RedisCache) -> None:
    old = await shared.acquire(KEY, hold=timedelta(milliseconds=20))
    await asyncio.sleep(0.1)
    new = await shared.acquire(KEY, hold=LONG)
    assert old is not None
    assert new is not None
    await shared.release(KEY, old)

    assert await shared.acquire(KEY, hold=LONG) is None


async def test_every_key_expires(shared: RedisCache, redis: RedisServer) -> None:
    await shared.put(KEY, entry(), keep=LONG)
    await shared.acquire(KEY, hold=LONG)
    client = connect(redis.url)
    names = sorted(bytes(name) for name in await client.keys("*") if isinstance(name, bytes))
    times = [await client.pttl(name) for name in names]
    await client.aclose()

    assert [b"carbon:entry:uk:GB", b"carbon:lease:uk:GB"] == names
    assert all(0 < left <= LONG / timedelta(milliseconds=1) for left in times)


async def test_without_redis_the_memory_answers_and_each_fault_is_counted(
    shared: RedisCache, redis: RedisServer, faults: list[str]
) -> None:
    await shared.put(KEY, entry(), keep=LONG)
    redis.kill()

    assert entry() == await shared.get(KEY)
    assert ["get"] == faults
    assert await shared.acquire(KEY, hold=LONG) is not None
    await shared.put(KEY, entry(99), keep=LONG)
    assert entry(99) == await shared.get(KEY)
    assert ["get"] == faults  # left alone for a second


async def test_redis_is_used_again_when_it_is_back(
    shared: RedisCache, redis: RedisServer, faults: list[str]
) -> None:
    redis.kill()
    await shared.put(KEY, entry(1), keep=LONG)
    redis.start()
    await asyncio.sleep(PAUSE_S + 0.1)
    await shared.put(KEY, entry(2), keep=LONG)
    client = connect(redis.url)
    record = await client.get("carbon:entry:uk:GB")
    await client.aclose()

    assert ["put"] == faults
    assert isinstance(record, bytes)
    assert entry(2) == from_record(record)


async def test_a_redis_that_was_never_there_is_no_error(
    tmp_path: Path, clock: ManualClock, faults: list[str]
) -> None:
    client = connect(f"unix://{tmp_path}/none.sock")
    cache = RedisCache(client, clock=clock, on_fault=faults.append)

    assert await cache.get(KEY) is None
    await cache.put(KEY, entry(), keep=LONG)
    assert entry() == await cache.get(KEY)
    assert ["get"] == faults
    await client.aclose()


async def test_a_record_of_another_schema_version_counts_as_none(
    shared: RedisCache, redis: RedisServer, faults: list[str]
) -> None:
    client = connect(redis.url)
    await client.set("carbon:entry:uk:GB", to_record(entry()).replace(":1,", ":2,", 1))
    await client.aclose()

    assert await shared.get(KEY) is None
    assert ["decode"] == faults


@pytest.mark.parametrize("kind", [AverageIntensity, MarginalIntensity])
def test_a_record_keeps_the_signal(kind: type[AverageIntensity | MarginalIntensity]) -> None:
    found = kind("X", 1.25, START, START + LONG, Quality.SYNTHETIC, "replay", START)

    assert CacheEntry(found, START) == from_record(to_record(CacheEntry(found, START)))


def test_an_unknown_schema_version_is_refused_by_name() -> None:
    with pytest.raises(UnreadableRecord, match="schema version 2; this reader knows 1"):
        from_record(to_record(entry()).replace(":1,", ":2,", 1))


@pytest.mark.parametrize(
    "change",
    [
        {"intensity": {"zone": "GB"}},
        {"intensity": 5},
        {"ask_after": "2026-03-04T10:00:00"},
        {"ask_after": None},
    ],
)
def test_a_broken_record_is_refused(change: dict[str, Any]) -> None:
    record = json.dumps(json.loads(to_record(entry())) | change)
    with pytest.raises(UnreadableRecord):
        from_record(record)


@pytest.mark.parametrize("record", ["", "[]", "{}", "null", b"\xff"])
def test_what_is_no_record_is_refused(record: str | bytes) -> None:
    with pytest.raises(UnreadableRecord):
        from_record(record)


async def test_series_are_kept_beside_the_present_value(cache: IntensityCache) -> None:
    values = series([1.25, np.nan, 0.1 + 0.2], zone="GB", signal=Signal.MARGINAL)
    known = Known(series=values, source="uk", quality=Quality.FORECAST, issued_at=START)
    key = CacheKey("uk", "GB", Topic.PAST)
    await cache.put(KEY, entry(), keep=LONG)
    await cache.put(key, CacheEntry(known, START + LONG), keep=LONG)

    assert entry() == await cache.get(KEY)
    found = await cache.get(key)
    assert found is not None
    assert isinstance(found.value, Known)
    kept = found.value.series
    np.testing.assert_array_equal(values.values, kept.values)
    assert (values.zone, values.signal, values.start, values.step, values.day) == (
        *(kept.zone, kept.signal, kept.start, kept.step, kept.day),
    )
    assert ("uk", Quality.FORECAST, START) == (found.value.source, found.value.quality, found.value.issued_at)


@pytest.mark.parametrize("values", ["AAAA", "not base64!", None, ""])
def test_a_series_that_cannot_be_unpacked_is_refused(values: str | None) -> None:
    known = Known(series=series([1]), source="uk", quality=Quality.ACTUAL, issued_at=START)
    data = json.loads(to_record(CacheEntry(known, START)))
    data["known"]["values"] = values

    with pytest.raises(UnreadableRecord):
        from_record(json.dumps(data))
