"""Several providers of one zone: the first that has an answer gives it, and each answer says whose it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from aegis_carbon.domain.intensity import Quality
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, Request, UkApi, row
from aegis_carbon.wiring import Carbon, carbon
from aegis_common.testing.redis import RedisServer

W = 20.0
HALF_HOUR = timedelta(minutes=30)


def settings(api: UkApi, folder: Path, **more: Any) -> IntensitySettings:
    """Return those of Electricity Maps before the UK API, both of GB and on one server."""
    secret = folder / "key"
    secret.write_text("hush-key", "utf-8")
    maps = {"key_file": secret, "zones": ["GB"], "url": f"{api.url}/v3"}
    told = {"providers": ["electricity_maps", "uk"], "electricity_maps": maps, "api_url": api.url}
    return IntensitySettings.model_validate({**told, **more})


@pytest.fixture
async def service(uk_api: UkApi, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Carbon]:
    async with carbon(settings(uk_api, tmp_path), clock=clock) as built:
        yield built


class Grid:
    """Both APIs; what Electricity Maps says can be replaced by a failure."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.fault: Answer | None = None

    def __call__(self, request: Request) -> Answer:
        now = self.clock.now
        start = now.replace(minute=0)
        if not request.path.startswith("/v3/"):
            half = now.replace(minute=now.minute // 30 * 30)
            rows = [
                row(half + number * HALF_HOUR, forecast=100, actual=100 if number < 0 else None)
                for number in range(-96, 96)
            ]
            return Answer({"data": [rows[96]] if request.path == "/intensity" else rows})
        if self.fault is not None:
            return self.fault
        told = {"zone": "GB", "isEstimated": False}
        hours = [
            {**told, "carbonIntensity": 200, "datetime": (start + n * timedelta(hours=1)).isoformat()}
            for n in range(-48, 48)
        ]
        if "latest" in request.path:
            return Answer(hours[48])
        if "forecast" in request.path:
            return Answer({"zone": "GB", "forecast": hours[48:]})
        return Answer({"zone": "GB", "history": hours[:48], "data": hours[:48]})


@pytest.fixture
def grid(uk_api: UkApi, clock: ManualClock) -> Grid:
    uk_api.answer = grid = Grid(clock)
    return grid


async def test_the_first_provider_answers_while_it_can(service: Carbon, grid: Grid, uk_api: UkApi) -> None:
    found = await service.advisor.intensity("GB", within=W)

    assert ("electricity_maps", 200, Quality.ACTUAL) == (found.source, found.g_per_kwh, found.quality)
    assert ["/v3/carbon-intensity/latest"] == [r.path.partition("?")[0] for r in uk_api.requests]


@pytest.mark.parametrize(
    "fault",
    [
        Answer(None, 403),
        Answer({}),
        Answer({"zone": "GB", "carbonIntensity": None, "datetime": "2026-03-04T10:00Z"}),
        Answer(b"<html>"),
        Answer({"zone": "FR", "carbonIntensity": 9, "datetime": "2026-03-04T10:00Z"}),
    ],
    ids=["refused", "empty", "null", "not json", "another zone"],
)
async def test_when_the_first_has_nothing_the_second_answers_and_is_named(
    service: Carbon, grid: Grid, fault: Answer
) -> None:
    grid.fault = fault
    found = await service.advisor.intensity("GB", within=W)

    assert ("uk", 100, Quality.FORECAST) == (found.source, found.g_per_kwh, found.quality)


async def test_the_second_is_asked_for_history_and_forecast_as_well(
    grid: Grid, uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> None:
    outlooks = []
    for fault in (None, Answer(None, 403)):
        grid.fault = fault
        async with carbon(settings(uk_api, tmp_path), clock=clock) as fresh:
            outlooks.append(await fresh.planning.forecast("GB", horizon=timedelta(hours=6), within=W))

    first, second = ({part.source for part in found.parts} for found in outlooks)

    assert ({"electricity_maps"}, {"uk"}) == (first, second)
    assert [200, 100] == [found.series.values[0] for found in outlooks]


async def test_two_replicas_on_one_redis_ask_once_for_each_thing(
    grid: Grid, uk_api: UkApi, clock: ManualClock, tmp_path: Path, redis: RedisServer
) -> None:
    shared = settings(uk_api, tmp_path, cache_redis_url=SecretStr(redis.url))
    async with carbon(shared, clock=clock) as one, carbon(shared, clock=clock) as other:
        await asyncio.gather(
            *(
                replica.planning.forecast("GB", horizon=timedelta(hours=6), within=W)
                for replica in (one, other, one, other)
            )
        )
        await asyncio.gather(*(replica.advisor.intensity("GB", within=W) for replica in (one, other)))
    asked = [request.path.partition("?")[0].rpartition("/")[2] for request in uk_api.requests]

    assert 1 == asked.count("forecast") == asked.count("latest")
    assert 0 == sum(path.startswith("/intensity") for path in (request.path for request in uk_api.requests))


async def test_a_failure_is_remembered_by_the_other_replica(
    grid: Grid, uk_api: UkApi, clock: ManualClock, tmp_path: Path, redis: RedisServer
) -> None:
    grid.fault = Answer(None, 403)
    shared = settings(uk_api, tmp_path, cache_redis_url=SecretStr(redis.url))
    async with carbon(shared, clock=clock) as one, carbon(shared, clock=clock) as other:
        for replica in (one, other):
            assert "uk" == (await replica.advisor.intensity("GB", within=W)).source

    assert 1 == sum("latest" in request.path for request in uk_api.requests)
