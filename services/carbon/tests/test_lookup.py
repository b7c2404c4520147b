"""The present intensity of a zone: cached, shared, stale, missing; with a real HTTP server and Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from aegis_carbon.adapters.redis_cache import connect
from aegis_carbon.adapters.replay import PACKAGED
from aegis_carbon.domain.advisor import CarbonAdvisor
from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.schedule import OnMissing, Reason
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national
from aegis_carbon.wiring import Carbon, carbon
from aegis_common.testing.redis import RedisServer

WITHIN = 20.0
DOWN = Answer(None, 400)
"""A failure that is not tried again, so that tests are quick."""

Build = Callable[..., Any]


@pytest.fixture
async def build(uk_api: UkApi, clock: ManualClock) -> AsyncIterator[Build]:
    """Returns a function that makes one process's worth of the service."""
    async with AsyncExitStack() as stack:

        async def make(**changes: Any) -> Carbon:
            settings = IntensitySettings(api_url=uk_api.url, **changes)
            return await stack.enter_async_context(carbon(settings, clock=clock))

        yield make


@pytest.fixture
async def advisor(build: Build) -> CarbonAdvisor:
    found: CarbonAdvisor = (await build()).advisor
    return found


def up(clock: ManualClock, value: float = 120) -> Answer:
    return national(clock.now.replace(minute=clock.now.minute // 30 * 30), forecast=value)


async def settled(api: UkApi, count: int) -> None:
    """Wait until the API has had *count* requests."""
    async with asyncio.timeout(10):
        while len(api.requests) < count:  # noqa: ASYNC110  # the server is a thread of its own
            await asyncio.sleep(0.01)


async def test_a_value_is_used_again_while_it_is_young(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock)
    first = await advisor.intensity("GB", within=WITHIN)
    clock.move(minutes=4)
    second = await advisor.intensity("GB", within=WITHIN)

    assert first == second
    assert timedelta(minutes=4) == second.age(clock.now)
    assert 1 == len(uk_api.requests)


async def test_a_mirror_gets_its_key_and_a_caller_that_names_itself(
    uk_api: UkApi, build: Build, clock: ManualClock
) -> None:
    uk_api.default = up(clock)
    advisor = (await build(api_key=SecretStr("hush"))).advisor
    await advisor.intensity("GB", within=WITHIN)
    headers = uk_api.requests[0].headers

    assert ("Bearer hush", "aegis-carbon") == (headers["authorization"], headers["user-agent"])


async def test_many_callers_are_one_request(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock)
    found = await asyncio.gather(*(advisor.intensity("GB", within=WITHIN) for _ in range(50)))

    assert 1 == len(set(found))
    assert 1 == len(uk_api.requests)


async def test_replicas_share_one_request_and_its_answer(
    uk_api: UkApi, build: Build, clock: ManualClock, redis: RedisServer
) -> None:
    uk_api.default = Answer(up(clock).body, delay_s=0.2)
    replicas = [await build(cache_redis_url=SecretStr(redis.url)) for _ in range(4)]
    found = await asyncio.gather(*(replica.advisor.intensity("GB", within=WITHIN) for replica in replicas))

    assert 1 == len(set(found))
    assert 1 == len(uk_api.requests)


async def test_within_its_slot_an_older_value_is_used_and_refreshed_behind_the_callers_back(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock, 120)
    await advisor.intensity("GB", within=WITHIN)
    clock.move(minutes=6)
    uk_api.default = Answer(up(clock, 130).body, delay_s=0.3)
    at_once = await advisor.intensity("GB", within=0)
    await settled(uk_api, 2)
    await asyncio.sleep(0.6)
    later = await advisor.intensity("GB", within=0)

    assert (120, Quality.FORECAST) == (at_once.g_per_kwh, at_once.quality)
    assert 130 == later.g_per_kwh


async def test_a_new_slot_is_asked_for_even_when_the_value_is_young(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    clock.move(minutes=17)
    uk_api.default = up(clock, 120)
    await advisor.intensity("GB", within=WITHIN)
    clock.move(minutes=2)
    uk_api.default = up(clock, 200)

    assert 200 == (await advisor.intensity("GB", within=WITHIN)).g_per_kwh


async def test_when_the_provider_fails_the_last_value_is_stale_and_shows_its_age(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock, 120)
    await advisor.intensity("GB", within=WITHIN)
    uk_api.default = DOWN
    clock.move(minutes=90)
    found = await advisor.intensity("GB", within=WITHIN)

    assert (120, Quality.STALE) == (found.g_per_kwh, found.quality)
    assert timedelta(minutes=90) == found.age(clock.now)


async def test_a_value_that_is_too_old_is_missing(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock)
    await advisor.intensity("GB", within=WITHIN)
    uk_api.default = DOWN
    clock.move(hours=2, minutes=19)
    with pytest.raises(NoIntensityData) as caught:
        await advisor.intensity("GB", within=WITHIN)

    assert {"zone": "GB", "providers": "uk: HTTP_400"} == caught.value.metadata
    assert timedelta(seconds=60) == caught.value.retry_after


async def test_a_slot_that_is_not_out_yet_leaves_the_last_one_as_stale(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock)
    clock.move(minutes=20)  # a new slot, but the API still gives the one before
    for _ in range(3):
        found = await advisor.intensity("GB", within=WITHIN)
        assert Quality.STALE == found.quality

    assert 1 == len(uk_api.requests)
    clock.move(seconds=61)
    uk_api.default = up(clock, 80)
    assert Quality.FORECAST == (await advisor.intensity("GB", within=WITHIN)).quality


async def test_a_provider_whose_clock_is_a_little_ahead_is_believed(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    clock.move(minutes=17, seconds=30)
    ahead = clock.now + timedelta(minutes=1)
    uk_api.default = national(ahead.replace(minute=30, second=0), forecast=75)
    found = await advisor.intensity("GB", within=WITHIN)

    assert (75, Quality.FORECAST) == (found.g_per_kwh, found.quality)


async def test_a_value_of_the_far_future_is_missing(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = national(clock.now + timedelta(hours=3), forecast=75)
    with pytest.raises(NoIntensityData):
        await advisor.intensity("GB", within=WITHIN)


@pytest.mark.parametrize("answer", [DOWN, Answer({"data": []}), Answer({})])
async def test_a_provider_that_failed_is_left_alone_for_a_while(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock, answer: Answer
) -> None:
    uk_api.default = answer
    for _ in range(5):
        with pytest.raises(NoIntensityData):
            await advisor.intensity("GB", within=WITHIN)
    assert 1 == len(uk_api.requests)

    clock.move(seconds=61)
    uk_api.default = up(clock)
    assert 120 == (await advisor.intensity("GB", within=WITHIN)).g_per_kwh


@pytest.mark.parametrize(("told", "pause_s"), [("600", 600), ("86400", 3600)])
async def test_a_retry_after_is_kept_to_but_for_an_hour_at_most(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock, told: str, pause_s: int
) -> None:
    uk_api.default = Answer(None, 429, {"Retry-After": told})
    for moment in (0, pause_s - 1):
        clock.move(seconds=moment)
        with pytest.raises(NoIntensityData):
            await advisor.intensity("GB", within=WITHIN)
    assert 1 == len(uk_api.requests)

    clock.move(seconds=2)
    uk_api.default = up(clock)
    assert 120 == (await advisor.intensity("GB", within=WITHIN)).g_per_kwh


async def test_a_caller_waits_no_longer_than_its_own_time(
    uk_api: UkApi, build: Build, clock: ManualClock
) -> None:
    """And the answer that it did not wait for is there for the next one."""
    advisor = (
        await build(request_timeout=timedelta(seconds=20), provider_budget=timedelta(seconds=20))
    ).advisor
    uk_api.default = Answer(up(clock).body, delay_s=1.0)
    began = time.monotonic()
    with pytest.raises(NoIntensityData, match="TIMEOUT"):
        await advisor.intensity("GB", within=0.2)
    waited = time.monotonic() - began

    assert waited < 0.9
    assert 120 == (await advisor.intensity("GB", within=WITHIN)).g_per_kwh
    assert 1 == len(uk_api.requests)


async def test_a_provider_that_hangs_is_given_up_after_its_budget(
    uk_api: UkApi, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    advisor = (
        await build(request_timeout=timedelta(seconds=20), provider_budget=timedelta(seconds=0.2))
    ).advisor
    uk_api.default = Answer({"data": []}, delay_s=20)
    with caplog.at_level(logging.WARNING), pytest.raises(NoIntensityData, match="TIMEOUT"):
        await advisor.intensity("GB", within=WITHIN)

    assert "took too long" in caplog.text


async def test_without_redis_the_provider_is_asked_directly(
    uk_api: UkApi, build: Build, clock: ManualClock, redis: RedisServer
) -> None:
    advisor = (await build(cache_redis_url=SecretStr(redis.url))).advisor
    redis.kill()
    uk_api.default = up(clock)

    assert 120 == (await advisor.intensity("GB", within=WITHIN)).g_per_kwh


async def test_a_replica_that_died_with_the_lease_holds_nobody_up_for_ever(
    uk_api: UkApi, build: Build, clock: ManualClock, redis: RedisServer
) -> None:
    client = connect(redis.url)
    await client.set("carbon:lease:uk:GB", "of the dead")
    await client.aclose()
    uk_api.default = up(clock, 99)
    advisor = (
        await build(cache_redis_url=SecretStr(redis.url), provider_budget=timedelta(seconds=0.5))
    ).advisor

    assert 99 == (await advisor.intensity("GB", within=WITHIN)).g_per_kwh


def profile(folder: Path) -> Path:
    """Write a recorded series for GB: the packaged one under another name."""
    path = folder / "profile.csv"
    text = PACKAGED.read_text("utf-8").replace("kind: synthetic", "kind: actual").replace("demo-dirty", "GB")
    path.write_text(text, "utf-8")
    return path


async def test_a_profile_stands_in_when_there_is_nothing_better(
    uk_api: UkApi, build: Build, clock: ManualClock, tmp_path: Path
) -> None:
    advisor = (await build(replay_file=profile(tmp_path))).advisor
    uk_api.default = DOWN
    fallback = await advisor.intensity("GB", within=WITHIN)
    clock.move(seconds=61)
    uk_api.default = up(clock)
    live = await advisor.intensity("GB", within=WITHIN)
    uk_api.default = DOWN
    clock.move(minutes=30)
    stale = await advisor.intensity("GB", within=WITHIN)

    assert [("replay", Quality.FORECAST), ("uk", Quality.FORECAST), ("uk", Quality.STALE)] == [
        (found.source, found.quality) for found in (fallback, live, stale)
    ]


async def test_a_profile_that_stands_first_is_used_first(uk_api: UkApi, build: Build, tmp_path: Path) -> None:
    advisor = (await build(replay_file=profile(tmp_path), providers=("replay", "uk"))).advisor
    found = await advisor.intensity("GB", within=WITHIN)

    assert "replay" == found.source
    assert [] == uk_api.requests


async def test_zones_in_use_are_refreshed_before_anybody_asks(
    uk_api: UkApi, build: Build, clock: ManualClock
) -> None:
    built: Carbon = await build()
    uk_api.default = up(clock, 120)
    await built.advisor.intensity("GB", within=WITHIN)
    warm = asyncio.create_task(built.lookup.keep_warm(every=timedelta(milliseconds=20)))
    clock.move(minutes=20)
    uk_api.default = up(clock, 130)
    await settled(uk_api, 2)
    warm.cancel()
    await asyncio.wait([warm])
    await asyncio.sleep(0.2)
    found = await built.advisor.intensity("GB", within=0)

    assert 130 == found.g_per_kwh
    assert {"/intensity"} == {request.path for request in uk_api.requests}


async def test_zones_that_nobody_uses_are_not_refreshed(
    uk_api: UkApi, build: Build, clock: ManualClock
) -> None:
    built: Carbon = await build()
    uk_api.default = up(clock)
    await built.advisor.intensity("GB", within=WITHIN)
    clock.move(hours=2)
    warm = asyncio.create_task(built.lookup.keep_warm(every=timedelta(milliseconds=10)))
    await asyncio.sleep(0.2)
    warm.cancel()
    await asyncio.wait([warm])

    assert 1 == len(uk_api.requests)


@pytest.mark.parametrize(("on_missing", "runs"), [(OnMissing.RUN_NOW, True), (OnMissing.WAIT, False)])
async def test_a_check_without_data_follows_on_missing(
    uk_api: UkApi, advisor: CarbonAdvisor, on_missing: OnMissing, runs: bool
) -> None:
    uk_api.default = DOWN
    decision = await advisor.check("GB", within=WITHIN, on_missing=on_missing)

    assert (runs, Reason.NO_DATA) == (bool(decision), decision.reason)


async def test_a_check_uses_the_stale_value_and_shows_it(
    uk_api: UkApi, advisor: CarbonAdvisor, clock: ManualClock
) -> None:
    uk_api.default = up(clock, 400)
    await advisor.intensity("GB", within=WITHIN)
    uk_api.default = DOWN
    clock.move(minutes=60)
    decision = await advisor.check("GB", within=WITHIN, on_missing=OnMissing.RUN_NOW)

    assert (False, Reason.ABOVE_THRESHOLD) == (bool(decision), decision.reason)
    assert (Quality.STALE, timedelta(minutes=60)) == (decision.quality, decision.age)


async def test_closing_ends_a_question_that_is_under_way(uk_api: UkApi, clock: ManualClock) -> None:
    settings = IntensitySettings(api_url=uk_api.url)
    uk_api.default = Answer({"data": []}, delay_s=20)
    async with carbon(settings, clock=clock) as built:
        with pytest.raises(NoIntensityData):
            await built.advisor.intensity("GB", within=0.05)

    assert 1 == len(asyncio.all_tasks())
