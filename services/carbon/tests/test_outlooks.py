"""What is expected of a zone, found through its providers; with a real HTTP server and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.series import HALF_HOUR
from aegis_carbon.testing.uk_api import Answer, Request, UkApi, moment, row
from aegis_carbon.wiring import Carbon, carbon
from aegis_common.testing.redis import RedisServer

DAY = timedelta(days=1)
WITHIN = 20.0
Build = Callable[..., Any]


class Grid:
    """A grid whose intensity is a function of the time of day, as the UK API tells of it.

    Attributes:
        shift: Added to every value that was measured.
        horizon: How far the forecast reaches.
        began: Before this, nothing was measured.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.shift = 0.0
        self.horizon = 2 * DAY
        self.began = clock.now - 400 * DAY

    def value(self, at: datetime) -> float:
        return 200.0 + at.hour * 5 + self.shift

    def __call__(self, request: Request) -> Answer:
        parts = request.path.strip("/").split("/")
        parts = parts[1:] if parts[0] == "regional" else parts
        start = moment(parts[1])
        end = start + self.horizon if parts[2] == "fw48h" else moment(parts[2])
        first = start - (start - moment("2026-01-01T00:00Z")) % HALF_HOUR
        rows = []
        while first < end:
            if first >= self.began:
                past = first + HALF_HOUR <= self._clock.now
                rows.append(
                    row(first, forecast=self.value(first) + 3, actual=self.value(first) if past else None)
                )
            first += HALF_HOUR
        return Answer({"data": rows})


@pytest.fixture
def grid(uk_api: UkApi, clock: ManualClock) -> Grid:
    found = Grid(clock)
    uk_api.answer = found
    return found


@pytest.fixture
async def build(uk_api: UkApi, clock: ManualClock) -> AsyncIterator[Build]:
    """Returns a function that makes one process's worth of the service."""
    async with AsyncExitStack() as stack:

        async def make(**changes: Any) -> Carbon:
            settings = IntensitySettings(api_url=uk_api.url, **changes)
            return await stack.enter_async_context(carbon(settings, clock=clock))

        yield make


async def settled(api: UkApi, count: int) -> None:
    """Wait until the API has answered *count* requests, and the answers have been taken in."""
    async with asyncio.timeout(10):
        while len(api.requests) < count:  # noqa: ASYNC110  # the server is a thread of its own
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


async def outlook_of(built: Carbon, zone: str = "GB", *, ahead: timedelta = DAY) -> Outlook:
    clock = built.clock
    return await built.outlooks.get(built.catalog.get(zone), until=clock() + ahead, within=WITHIN)


async def test_the_providers_forecast_is_extended_by_ours(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    grid.horizon = timedelta(hours=15)
    found = await outlook_of(await build())

    assert [("uk", Quality.FORECAST), ("aegis", Quality.FORECAST)] == [
        (part.source, part.quality) for part in found.parts
    ]
    start = found.series.start
    assert start <= clock.now < start + HALF_HOUR
    assert grid.value(start) + 3 == found.series.values[0]
    later = start + 20 * timedelta(hours=1)
    assert grid.value(later) == pytest.approx(found.series.values[40], rel=0.02)
    assert not np.isnan(found.series.values).any()


async def test_history_comes_in_pieces_until_there_is_enough(
    build: Build, grid: Grid, uk_api: UkApi, clock: ManualClock
) -> None:
    built = await build()
    counts: list[int] = []
    while len(counts) < 3 or len(set(counts[-3:])) > 1:  # the next piece is asked for behind the answer
        await outlook_of(built)
        await asyncio.sleep(0.2)
        counts.append(sum("fw48h" not in request.path for request in uk_api.requests))
    oldest = min(moment(request.path.split("/")[2]) for request in uk_api.requests)
    clock.move(minutes=20)
    await outlook_of(built)
    await settled(uk_api, counts[-1] + 2)

    # Two weeks first, in two requests: the API takes less than 14 days. Then two weeks more each time.
    assert 2 == counts[0]
    assert sorted(counts) == counts
    assert counts[0] < counts[1] < counts[-1]
    assert timedelta(days=74) <= clock.now - oldest <= timedelta(days=76)
    assert clock.now - timedelta(days=2) < moment(uk_api.requests[-1].path.split("/")[2])


async def test_what_was_revised_is_taken_over(
    build: Build, grid: Grid, uk_api: UkApi, clock: ManualClock
) -> None:
    grid.horizon = timedelta(0)
    built = await build()
    before = await outlook_of(built)
    grid.shift = 50
    clock.move(minutes=16)

    async with asyncio.timeout(10):  # what is revised is asked for behind an answer
        while (await outlook_of(built)).series.values.mean() <= before.series.values.mean() + 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_replicas_share_history_and_forecast(
    build: Build, grid: Grid, uk_api: UkApi, redis: RedisServer
) -> None:
    first, second = [await build(cache_redis_url=SecretStr(redis.url)) for _ in range(2)]
    ours = await outlook_of(first)
    count = len(uk_api.requests)
    theirs = await outlook_of(second)

    np.testing.assert_allclose(ours.series.values, theirs.series.values, rtol=0.02)
    forecasts = [request for request in uk_api.requests if "fw48h" in request.path]
    assert 1 == len(forecasts)
    assert count >= 3


async def test_an_outage_leaves_the_last_history_and_forecast(
    build: Build, grid: Grid, uk_api: UkApi, clock: ManualClock
) -> None:
    built = await build()
    await outlook_of(built)
    uk_api.answer = lambda _: Answer(None, 500)
    clock.move(hours=3)
    found = await outlook_of(built)

    assert ["uk", "aegis"] == [part.source for part in found.parts]
    assert clock.now - timedelta(hours=3) <= found.parts[0].issued_at <= clock.now


async def test_without_the_provider_the_profile_at_hand_serves(build: Build, uk_api: UkApi) -> None:
    uk_api.default = Answer(None, 500)
    built = await build()
    found = await outlook_of(built, "demo-day", ahead=7 * DAY)

    assert ["aegis"] == [part.source for part in found.parts]
    assert 7 * 48 <= len(found.series.values)
    with pytest.raises(NoIntensityData, match="uk: neither forecast nor a day of history"):
        await outlook_of(built, "GB")


async def test_a_zone_that_was_measured_for_hours_only_has_no_forecast_of_ours(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    grid.began = clock.now - timedelta(hours=9)
    grid.horizon = timedelta(hours=10)
    built = await build()

    with pytest.raises(NoIntensityData):
        await outlook_of(built)


async def test_regions_have_histories_too(build: Build, grid: Grid, uk_api: UkApi) -> None:
    found = await outlook_of(await build(), "GB-london")

    assert "uk" == found.parts[0].source
    assert any(request.path.startswith("/regional/intensity/") for request in uk_api.requests)
    assert all(request.path.endswith("/regionid/13") for request in uk_api.requests)


async def test_many_callers_are_one_computation(build: Build, grid: Grid, uk_api: UkApi) -> None:
    built = await build()
    found = await asyncio.gather(*(outlook_of(built) for _ in range(20)))

    assert all(item.series.values[0] == found[0].series.values[0] for item in found)
    assert 1 == len({id(item) for item in found})
    assert 3 == len(uk_api.requests)
    assert 1 == sum("fw48h" in request.path for request in uk_api.requests)
