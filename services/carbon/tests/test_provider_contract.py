"""What every provider has to keep, run over each of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import httpx
import pytest

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.retrying import RetryingProvider
from aegis_carbon.adapters.series import read_series
from aegis_carbon.adapters.uk import UkProvider
from aegis_carbon.domain.providers import IntensityProvider
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, Request, UkApi, national, row

ZONE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""That of `zone` in carbon_service.proto, without the collection."""


def answer(request: Request, now: datetime) -> Answer:
    """Return slots around now, whatever the span: the API, too, gives more than it was asked for."""
    start = now.replace(minute=0) - timedelta(days=2)
    slots = [start + number * timedelta(minutes=30) for number in range(4 * 48)]
    measured = {slot: 100 if slot + timedelta(minutes=30) <= now else None for slot in slots}
    if request.path == "/intensity" or request.path.startswith("/regional/regionid"):
        return national(now.replace(minute=0), forecast=120)
    return Answer({"data": [row(slot, forecast=120, actual=value) for slot, value in measured.items()]})


@pytest.fixture(params=["uk", "uk, retrying", "replay"])
async def provider(
    request: pytest.FixtureRequest, uk_api: UkApi, clock: ManualClock
) -> AsyncIterator[IntensityProvider]:
    uk_api.answer = lambda request: answer(request, clock.now)
    async with httpx.AsyncClient(base_url=uk_api.url) as client:
        uk = UkProvider(JsonApi(client, clock=clock, timeout=timedelta(seconds=5)), clock=clock)
        if request.param == "uk":
            yield uk
        elif request.param == "replay":
            yield ReplayProvider(read_series(PACKAGED), clock=clock)
        else:
            yield RetryingProvider(uk, budget=timedelta(seconds=5))


class TestProvider:
    async def test_its_zones_have_names_that_the_api_takes(self, provider: IntensityProvider) -> None:
        zones = provider.zones

        assert zones
        assert len(zones) == len({zone.id for zone in zones})
        for zone in zones:
            assert ZONE_PATTERN.fullmatch(zone.id)
            assert zone.display_name

    async def test_it_knows_the_present_slot_of_each_zone(
        self, provider: IntensityProvider, clock: ManualClock
    ) -> None:
        for zone in provider.zones:
            found = await provider.current(zone.id)

            assert found is not None
            assert found.covers(clock.now)
            assert (zone.id, zone.signal, provider.name) == (found.zone, found.signal, found.source)

    async def test_it_says_beforehand_which_labels_it_uses(self, provider: IntensityProvider) -> None:
        found = await provider.current(provider.zones[0].id)

        assert found is not None
        assert found.quality in provider.capabilities.qualities

    async def test_its_values_carry_the_moment_of_the_question(
        self, provider: IntensityProvider, clock: ManualClock
    ) -> None:
        clock.move(minutes=1)
        found = await provider.current(provider.zones[0].id)

        assert found is not None
        assert clock.now == found.fetched_at

    async def test_its_past_has_passed_and_lies_in_the_span(
        self, provider: IntensityProvider, clock: ManualClock
    ) -> None:
        start = clock.now - timedelta(days=3)
        found = await provider.past(provider.zones[0].id, start, clock.now + timedelta(days=1))

        assert found
        assert all(slot.end <= clock.now and slot.end > start for slot in found)
        assert all((provider.zones[0].id, provider.name) == (slot.zone, slot.source) for slot in found)
        assert provider.capabilities.history >= timedelta(days=3)

    async def test_its_forecast_is_of_slots_that_have_not_ended(
        self, provider: IntensityProvider, clock: ManualClock
    ) -> None:
        found = await provider.ahead(provider.zones[0].id)

        assert bool(found) == bool(provider.capabilities.forecast)
        assert all(slot.end > clock.now for slot in found)
        assert all(slot.quality in provider.capabilities.qualities for slot in found)
