"""What `/metrics` says of providers and of forecasts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national
from aegis_carbon.wiring import Carbon, carbon
from aegis_common.telemetry import setup_telemetry

Text = Callable[[], str]


@pytest.fixture
async def service(uk_api: UkApi, clock: ManualClock) -> AsyncIterator[tuple[Carbon, Text]]:
    telemetry = setup_telemetry("carbon")
    settings = IntensitySettings(api_url=uk_api.url)
    async with carbon(settings, clock=clock, meter=telemetry.meter) as built:
        yield built, lambda: telemetry.metrics_text().decode()
    telemetry.shutdown()


def value(text: str, name: str, **labels: str) -> float:
    """Return the value of a metric, whose labels are at least *labels*."""
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if found and all(f'{label}="{told}"' in found[1] for label, told in labels.items()):
            return float(found[2])
    raise AssertionError(f"no {name} {labels} in\n{text}")


async def test_a_provider_is_up_while_it_answers(
    service: tuple[Carbon, Text], uk_api: UkApi, clock: ManualClock
) -> None:
    built, text = service
    uk_api.default = national(clock.now.replace(minute=0), forecast=99)
    await built.advisor.intensity("GB", within=9)
    up = text()
    uk_api.default = Answer(None, 429, {"Retry-After": "300"})
    with pytest.raises(NoIntensityData):
        await built.advisor.intensity("GB-wales", within=9)
    down = text()

    assert 1 == value(up, "carbon_provider_up", provider="uk")
    assert 0 == value(up, "carbon_provider_breaker_open", provider="uk")
    assert 1 == value(up, "carbon_provider_duration_seconds_count", provider="uk", topic="present")
    assert 0 == value(down, "carbon_provider_up", provider="uk")
    assert 1 == value(down, "carbon_provider_breaker_open", provider="uk")
    assert 0 < value(down, "carbon_provider_answer_age_seconds", provider="uk")
    assert 1 == value(down, "carbon_provider_requests_total", outcome="http_429", provider="uk")


async def test_forecasts_are_scored_when_measured_values_arrive(
    service: tuple[Carbon, Text], clock: ManualClock
) -> None:
    built, text = service
    await built.planning.forecast("demo-day", horizon=None, within=9)
    assert "carbon_forecast_mape" not in text()
    clock.move(hours=10)
    await built.planning.forecast("demo-day", horizon=timedelta(hours=1), within=9)
    told = {"source": "aegis", "zone": "demo-day"}

    assert 12 >= value(text(), "carbon_forecast_scored", horizon="0h-6h", **told) > 9
    assert 8 >= value(text(), "carbon_forecast_scored", horizon="6h-24h", **told) > 5
    assert 0 <= value(text(), "carbon_forecast_mape", horizon="0h-6h", **told) < 0.5
    assert abs(value(text(), "carbon_forecast_bias", horizon="0h-6h", **told)) < 0.5
