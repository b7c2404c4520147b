"""The UK API's shapes and quirks, each over a real HTTP connection."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aegis_carbon.adapters.json_api import MAX_ANSWER_BYTES, JsonApi
from aegis_carbon.adapters.uk import UkProvider
from aegis_carbon.domain.intensity import AverageIntensity, Quality
from aegis_carbon.domain.providers import ProviderError
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national, row

START = datetime(2026, 3, 4, 10, tzinfo=UTC)
TIMEOUT = timedelta(seconds=0.3)


@pytest.fixture
async def uk(uk_api: UkApi, clock: ManualClock) -> AsyncIterator[UkProvider]:
    async with httpx.AsyncClient(base_url=uk_api.url) as client:
        yield UkProvider(JsonApi(client, clock=clock, timeout=TIMEOUT), clock=clock)


async def fault(uk: UkProvider, zone: str = "GB") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await uk.current(zone)
    return caught.value


async def test_a_measured_value_is_actual(uk_api: UkApi, uk: UkProvider, clock: ManualClock) -> None:
    uk_api.default = national(START, forecast=186, actual=181)
    expected = AverageIntensity(
        "GB", 181.0, START, START + timedelta(minutes=30), Quality.ACTUAL, "uk", clock.now
    )

    assert expected == await uk.current("GB")
    assert ["/intensity"] == [request.path for request in uk_api.requests]


async def test_a_null_actual_leaves_the_forecast_and_says_so(uk_api: UkApi, uk: UkProvider) -> None:
    uk_api.default = national(START, forecast=186, actual=None)
    found = await uk.current("GB")

    assert found is not None
    assert (186.0, Quality.FORECAST) == (found.g_per_kwh, found.quality)


async def test_a_measured_zero_stays_zero(uk_api: UkApi, uk: UkProvider) -> None:
    uk_api.default = national(START, forecast=20, actual=0)
    found = await uk.current("GB")

    assert found is not None
    assert (0.0, Quality.ACTUAL) == (found.g_per_kwh, found.quality)


@pytest.mark.parametrize("wrap", [lambda region: [region], lambda region: region], ids=["list", "object"])
async def test_a_region_has_forecasts_only(uk_api: UkApi, uk: UkProvider, wrap: Any) -> None:
    region = {"regionid": 13, "shortname": "London", "data": [row(START, forecast=118)]}
    uk_api.default = Answer({"data": wrap(region)})
    found = await uk.current("GB-london")

    assert found is not None
    assert ("GB-london", 118.0, Quality.FORECAST) == (found.zone, found.g_per_kwh, found.quality)
    assert ["/regional/regionid/13"] == [request.path for request in uk_api.requests]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": []},
        {"data": [row(START, forecast=None, actual=None)]},
        {"data": [{"regionid": 13, "data": []}]},
    ],
)
async def test_no_value_is_missing_and_not_a_failure(uk_api: UkApi, uk: UkProvider, body: Any) -> None:
    uk_api.default = Answer(body)

    assert await uk.current("GB") is None


async def test_the_present_slot_is_picked_from_messy_rows(uk_api: UkApi, uk: UkProvider) -> None:
    """Out of order, with the slot before, a duplicate and an overlap."""
    rows = [
        row(START + timedelta(minutes=30), forecast=90),
        row(START, forecast=95, actual=None),
        row(START, forecast=96, actual=97),
        row(START - timedelta(minutes=15), forecast=50),
        row(START - timedelta(minutes=30), forecast=60, actual=61),
        row(START + timedelta(hours=2), forecast=40),
    ]
    uk_api.default = Answer({"data": rows})
    found = await uk.current("GB")

    assert found is not None
    assert (START, 97.0, Quality.ACTUAL) == (found.start, found.g_per_kwh, found.quality)


async def test_before_the_present_slot_is_out_the_newest_one_is_given(uk_api: UkApi, uk: UkProvider) -> None:
    earlier = [row(START - n * timedelta(minutes=30), forecast=n, actual=None) for n in (3, 1, 2)]
    uk_api.default = Answer({"data": earlier})
    found = await uk.current("GB")

    assert found is not None
    assert 1.0 == found.g_per_kwh


async def test_a_broken_row_does_not_spoil_the_others(uk_api: UkApi, uk: UkProvider) -> None:
    broken: list[Any] = [
        {"from": "soon"},
        "text",
        {**row(START, forecast=1), "to": "2026-03-04T10:00Z"},
        row(START, forecast=-5),
        row(START, forecast="12"),
        row(START, forecast=True),
    ]
    uk_api.default = Answer({"data": [*broken, row(START, forecast=70)]})
    found = await uk.current("GB")

    assert found is not None
    assert 70.0 == found.g_per_kwh


async def test_the_night_of_a_clock_change_is_read_in_utc(
    uk_api: UkApi, uk: UkProvider, clock: ManualClock
) -> None:
    clock.now = datetime(2026, 3, 29, 1, 10, tzinfo=UTC)  # the hour that London skips
    uk_api.default = national(datetime(2026, 3, 29, 1, tzinfo=UTC), forecast=88)
    found = await uk.current("GB")

    assert found is not None
    assert found.covers(clock.now)


async def test_a_compressed_answer_is_read(uk_api: UkApi, uk: UkProvider) -> None:
    body = gzip.compress(json.dumps({"data": [row(START, forecast=77)]}).encode())
    uk_api.default = Answer(body, headers={"Content-Encoding": "gzip"})
    found = await uk.current("GB")

    assert found is not None
    assert 77.0 == found.g_per_kwh


@pytest.mark.parametrize(
    ("answer", "name", "retryable"),
    [
        (
            Answer({"error": {"code": "400 Bad Request", "message": "Please enter a valid date"}}, 400),
            "HTTP_400",
            False,
        ),
        (Answer(None, 404), "HTTP_404", False),
        (Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}), "HTTP_302", False),
        (Answer(b"<html>", 500), "HTTP_500", True),
        (Answer(None, 503), "HTTP_503", True),
        (Answer(None, 429), "HTTP_429", True),
        (Answer({"error": {"code": "500", "message": "no"}}), "REFUSED", False),
        (Answer(b""), "MALFORMED", False),
        (Answer(b"<html>"), "MALFORMED", False),
        (Answer(b"\xff\xfe\xfa"), "MALFORMED", False),
        (Answer([]), "MALFORMED", False),
        (Answer({"rows": []}), "MALFORMED", False),
        (Answer({"data": ["nonsense"]}), "MALFORMED", False),
        (Answer({"data": "nonsense"}), "MALFORMED", False),
        (Answer(b"not gzip", headers={"Content-Encoding": "gzip"}), "MALFORMED", False),
        (Answer(b" " * (MAX_ANSWER_BYTES + 1)), "TOO_LARGE", False),
        (Answer({"data": []}, delay_s=30), "TIMEOUT", True),
        (Answer(b" ", chunks=1000, delay_s=0.02), "TIMEOUT", True),
    ],
)
async def test_a_failure_has_a_name_and_says_whether_to_retry(
    uk_api: UkApi, uk: UkProvider, answer: Answer, name: str, retryable: bool
) -> None:
    uk_api.default = answer
    error = await fault(uk)

    assert (name, retryable) == (error.fault, error.retryable)


async def test_the_message_of_an_error_answer_is_told(uk_api: UkApi, uk: UkProvider) -> None:
    uk_api.default = Answer({"error": {"code": "400", "message": "Please enter a valid date"}}, 400)

    assert "Please enter a valid date" in str(await fault(uk))


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", timedelta(seconds=7)),
        ("Wed, 04 Mar 2026 10:13:00 GMT", timedelta(seconds=60)),
        ("Wed, 04 Mar 2026 10:00:00 GMT", timedelta(0)),
        ("99999999999999999999", timedelta(days=1)),
        ("soon", None),
        ("-1", None),
    ],
)
async def test_retry_after_is_read_as_seconds_or_as_a_date(
    uk_api: UkApi, uk: UkProvider, header: str, wait: timedelta | None
) -> None:
    uk_api.default = Answer(None, 429, {"Retry-After": header})

    assert wait == (await fault(uk)).retry_after


async def test_nobody_there_is_unreachable_and_may_be_tried_again(clock: ManualClock) -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as client:
        error = await fault(
            UkProvider(JsonApi(client, clock=clock, timeout=timedelta(seconds=5)), clock=clock)
        )

    assert ("UNREACHABLE", True) == (error.fault, error.retryable)
