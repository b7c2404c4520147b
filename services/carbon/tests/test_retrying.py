"""Retries: what is tried again, how often, and within which time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.retrying import ATTEMPTS, RetryingProvider
from aegis_carbon.adapters.uk import UkProvider
from aegis_carbon.domain.providers import ProviderError
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national


@pytest.fixture
async def client(uk_api: UkApi) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=uk_api.url) as client:
        yield client


def retrying(client: httpx.AsyncClient, clock: ManualClock, *, budget: float = 20) -> RetryingProvider:
    uk = UkProvider(JsonApi(client, clock=clock, timeout=timedelta(seconds=5)), clock=clock)
    return RetryingProvider(uk, budget=timedelta(seconds=budget))


async def test_a_spell_of_500_is_got_over(
    uk_api: UkApi, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    uk_api.script = [Answer(None, 500), Answer(None, 503)]
    uk_api.default = national(clock.now.replace(minute=0), forecast=120)
    found = await retrying(client, clock).current("GB")

    assert found is not None
    assert 3 == len(uk_api.requests)


async def test_it_gives_up_after_three_attempts(
    uk_api: UkApi, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    uk_api.default = Answer(None, 500)
    with pytest.raises(ProviderError, match="HTTP_500"):
        await retrying(client, clock).current("GB")

    assert ATTEMPTS == len(uk_api.requests)


async def test_what_cannot_get_better_is_not_tried_again(
    uk_api: UkApi, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    uk_api.default = Answer(None, 400)
    with pytest.raises(ProviderError, match="HTTP_400"):
        await retrying(client, clock).current("GB")

    assert 1 == len(uk_api.requests)


async def test_a_short_retry_after_is_waited_for(
    uk_api: UkApi, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    uk_api.script = [Answer(None, 429, {"Retry-After": "1"})]
    uk_api.default = national(clock.now.replace(minute=0), forecast=120)
    began = time.monotonic()
    found = await retrying(client, clock).current("GB")

    assert found is not None
    assert time.monotonic() - began >= 1


async def test_a_retry_after_beyond_the_budget_is_handed_on_at_once(
    uk_api: UkApi, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    uk_api.default = Answer(None, 429, {"Retry-After": "120"})
    with pytest.raises(ProviderError) as caught:
        await retrying(client, clock, budget=5).current("GB")

    assert 1 == len(uk_api.requests)
    assert timedelta(seconds=120) == caught.value.retry_after
