"""What only WattTime does: logins, units, signals; the rest is in test_provider_contract.py."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aegis_carbon.domain.intensity import MarginalIntensity, Quality, Signal
from aegis_carbon.domain.providers import IntensityProvider, ProviderError
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.sources import Workshop, make_provider
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, Request, UkApi
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError

REGION = "CAISO_NORTH"


def body(value: float = 870.0, **meta: Any) -> dict[str, Any]:
    told = {
        "region": REGION,
        "signal_type": "co2_moer",
        "units": "lbs_co2_per_mwh",
        "data_point_period_seconds": 300,
        **meta,
    }
    return {"data": [{"point_time": "2026-03-04T10:10:00+00:00", "value": value}], "meta": told}


class Api:
    """Gives a new token at each login, and refuses every other one."""

    def __init__(self, server: UkApi) -> None:
        self.server = server
        self.logins = 0
        self.valid = ""
        self.body = body()
        server.answer = self._answer

    def _answer(self, request: Request) -> Answer:
        if request.path == "/login":
            self.logins += 1
            self.valid = f"token-{self.logins}"
            return Answer({"token": self.valid}, delay_s=0.05)
        known = request.headers["authorization"] == f"Bearer {self.valid}"
        return Answer(self.body) if known else Answer(None, 401)


@pytest.fixture
def api(uk_api: UkApi) -> Api:
    return Api(uk_api)


@pytest.fixture
def make(api: Api, clock: ManualClock, tmp_path: Path) -> Callable[..., IntensityProvider]:
    def made(**about: Any) -> IntensityProvider:
        (tmp_path / "user").write_text("me\n")
        (tmp_path / "password").write_text("hush\n")
        files = {"user_file": tmp_path / "user", "password_file": tmp_path / "password"}
        told = {"url": api.server.url, "zones": [REGION], **files, **about}
        settings = IntensitySettings.model_validate({"watttime": told})
        return make_provider("watttime", Workshop(settings, clock, AsyncExitStack()))

    return made


Make = Callable[..., IntensityProvider]


async def test_pounds_per_megawatt_hour_become_grams_per_kilowatt_hour(
    make: Make, api: Api, clock: ManualClock
) -> None:
    api.body = body(1000)
    start = clock.now - timedelta(minutes=2)
    end = start + timedelta(minutes=5)
    expected = MarginalIntensity(REGION, 453.59237, start, end, Quality.FORECAST, "watttime", clock.now)

    assert expected == await make().current(REGION)


async def test_the_login_carries_user_and_password(make: Make, api: Api) -> None:
    await make().current(REGION)
    sent = api.server.requests[0].headers["authorization"].removeprefix("Basic ")

    assert b"me:hush" == base64.b64decode(sent)


async def test_callers_share_one_login(make: Make, api: Api) -> None:
    provider = make()
    await asyncio.gather(*(provider.current(REGION) for _ in range(5)))

    assert 1 == api.logins


async def test_a_token_that_is_refused_is_renewed_once_for_all_callers(make: Make, api: Api) -> None:
    provider = make()
    await provider.current(REGION)
    api.valid = "another"
    found = await asyncio.gather(*(provider.current(REGION) for _ in range(3)))

    assert None not in found
    assert 2 == api.logins


async def test_a_token_is_renewed_before_it_ends(make: Make, api: Api, clock: ManualClock) -> None:
    provider = make()
    await provider.current(REGION)
    clock.move(minutes=27)
    await provider.ahead(REGION)
    assert 1 == api.logins
    clock.move(minutes=2)
    await provider.ahead(REGION)

    assert 2 == api.logins


async def test_a_login_that_is_refused_is_not_tried_again(make: Make, api: Api) -> None:
    api.server.answer = lambda request: Answer(None, 401)
    with pytest.raises(ProviderError, match="HTTP_401"):
        await make().current(REGION)

    assert ["/login"] == [request.path for request in api.server.requests]


@pytest.mark.parametrize("answer", [{}, {"token": ""}, {"token": 5}, {"token": "a\nb"}, []])
async def test_a_login_without_a_token_is_malformed(make: Make, api: Api, answer: Any) -> None:
    api.server.answer = lambda request: Answer(answer)
    with pytest.raises(ProviderError, match=r"MALFORMED.*login"):
        await make().current(REGION)


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({"units": "percentile"}, "OTHER_UNIT.*percentile.*lbs_co2_per_mwh"),
        ({"units": None}, "OTHER_UNIT"),
        ({"region": "PJM"}, "OTHER_ZONE.*CAISO_NORTH.*PJM"),
        ({"signal_type": "health_damage"}, "OTHER_ZONE.*co2_moer.*health_damage"),
        ({"data_point_period_seconds": None}, "MALFORMED.*meta"),
    ],
)
async def test_values_of_another_unit_signal_or_region_are_refused(
    make: Make, api: Api, meta: dict[str, Any], fault: str
) -> None:
    api.body = body(70, **meta)
    with pytest.raises(ProviderError, match=fault):
        await make().current(REGION)


async def test_average_emissions_are_another_signal(make: Make, api: Api) -> None:
    api.body = body(signal_type="co2_aoer")
    provider = make(signal_type="co2_aoer")
    found = await provider.current(REGION)

    assert found is not None
    assert {Signal.AVERAGE} == {found.signal, provider.zones[0].signal}


async def test_a_zone_with_both_signals_is_refused_at_the_start(make: Make, api: Api, tmp_path: Path) -> None:
    make()
    files = {"user_file": tmp_path / "user", "password_file": tmp_path / "password"}
    watttime = {"url": api.server.url, "zones": {"GB": "UK"}, **files}
    settings = {"providers": ["uk", "watttime"], "watttime": watttime}
    with pytest.raises(ConfigurationError, match="different signals"):
        async with carbon(IntensitySettings.model_validate(settings)):
            pass
