"""A provider that fails whatever it is asked is left alone, and tried again by one question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from aegis_carbon.domain.breaker import FAILURES, Breaker
from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national
from aegis_carbon.wiring import Carbon, carbon

PAUSE = timedelta(seconds=60)


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(pause=PAUSE, clock=clock)


def failed(breaker: Breaker, count: int, fault: str = "TIMEOUT") -> None:
    for _ in range(count):
        breaker.note("uk", fault)


def test_it_opens_after_failures_in_a_row(breaker: Breaker, clock: ManualClock) -> None:
    failed(breaker, FAILURES - 1)
    assert breaker.closed_until("uk") is None
    breaker.note("uk", "")
    failed(breaker, FAILURES - 1, "HTTP_503")
    assert not breaker.is_open("uk")
    failed(breaker, 1, "UNREACHABLE")

    assert clock.now + PAUSE == breaker.closed_until("uk")
    assert breaker.closed_until("replay") is None


def test_what_one_question_was_refused_says_nothing_of_the_next(breaker: Breaker) -> None:
    for fault in ("HTTP_400", "HTTP_403", "HTTP_404", "NO_DATA", "MALFORMED", "OTHER_ZONE"):
        failed(breaker, FAILURES, fault)

    assert breaker.closed_until("uk") is None


def test_after_the_pause_one_question_tries_it(breaker: Breaker, clock: ManualClock) -> None:
    failed(breaker, FAILURES)
    clock.move(seconds=61)

    assert breaker.closed_until("uk") is None
    assert breaker.closed_until("uk") is not None
    breaker.note("uk", "TIMEOUT")
    assert breaker.is_open("uk")
    clock.move(seconds=61)
    assert breaker.closed_until("uk") is None
    breaker.note("uk", "NO_DATA")
    assert not breaker.is_open("uk")
    assert breaker.closed_until("uk") is None


def test_too_many_requests_are_no_zones_alone(breaker: Breaker, clock: ManualClock) -> None:
    breaker.note("uk", "HTTP_429", timedelta(minutes=5))

    assert clock.now + timedelta(minutes=5) == breaker.closed_until("uk")
    breaker.note("uk", "HTTP_429", timedelta(days=1))
    assert clock.now + timedelta(hours=1) == breaker.closed_until("uk")


@pytest.fixture
async def service(uk_api: UkApi, clock: ManualClock) -> AsyncIterator[Carbon]:
    async with carbon(IntensitySettings(api_url=uk_api.url), clock=clock) as built:
        yield built


async def test_a_provider_that_says_when_is_not_asked_for_another_zone_before(
    service: Carbon, uk_api: UkApi, clock: ManualClock
) -> None:
    uk_api.default = Answer(None, 429, {"Retry-After": "300"})
    for zone in ("GB", "GB-london", "GB-wales"):
        with pytest.raises(NoIntensityData):
            await service.advisor.intensity(zone, within=9)
    assert 1 == len(uk_api.requests)
    uk_api.default = national(clock.now.replace(minute=0) + timedelta(minutes=30), forecast=99)
    clock.move(minutes=20)

    assert 99 == (await service.advisor.intensity("GB-wales", within=9)).g_per_kwh
