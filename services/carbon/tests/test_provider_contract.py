"""What every provider has to keep, run over each of them; those of an API against a server on loopback."""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aegis_carbon.adapters.file import FileProvider
from aegis_carbon.adapters.json_api import MAX_ANSWER_BYTES
from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.series import read_series
from aegis_carbon.domain.providers import IntensityProvider, ProviderError
from aegis_carbon.domain.timeseries import IntensitySeries
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.dialects import DIALECTS, SECRET, Dialect, Row, serve
from aegis_carbon.testing.uk_api import Answer, Request, UkApi

ZONE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""That of `zone` in carbon_service.proto, without the collection."""


def begun(now: datetime, step: timedelta) -> datetime:
    """Return the start of the slot around *now*."""
    return now - (now - now.replace(hour=0, minute=0)) % step


def four_days(now: datetime, step: timedelta) -> list[Row]:
    """Return slots around now, whatever the span: an API, too, gives more than it was asked for."""
    start = begun(now, step) - timedelta(days=2)
    times = [start + number * step for number in range(timedelta(days=4) // step)]
    return [Row(time, 120, time + step <= now) for time in times]


@pytest.fixture(params=[*DIALECTS, "file", "replay"])
def provider(
    request: pytest.FixtureRequest, uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> IntensityProvider:
    if request.param == "replay":
        return ReplayProvider(read_series(PACKAGED), clock=clock)
    if request.param == "file":
        series = tmp_path / "series.csv"
        lines = [f"{row.start.isoformat()},{row.value}" for row in four_days(clock.now, timedelta(hours=1))]
        head = "# schema_version: 1\n# kind: actual\n# step_minutes: 60\ntime,X\n"
        series.write_text(head + "\n".join(lines), "utf-8")
        return FileProvider(series, clock=clock)
    dialect = DIALECTS[request.param]
    rows = four_days(clock.now, dialect.step)
    serve(uk_api, lambda request: Answer(dialect.written(rows, request)))
    return dialect.provider(request.param, uk_api, tmp_path, clock)


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


@pytest.fixture(params=DIALECTS)
def asked(
    request: pytest.FixtureRequest, uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> tuple[Dialect, IntensityProvider]:
    """Return how an API writes, and its provider, which tries nothing again."""
    dialect = DIALECTS[request.param]
    slow = 0.3 if "slow" in request.node.name else 5
    return dialect, dialect.provider(request.param, uk_api, tmp_path, clock, timeout=slow, budget=0.001)


async def answers(provider: IntensityProvider, now: datetime) -> list[object]:
    zone = provider.zones[0].id
    day_before = await provider.past(zone, now - timedelta(days=3), now)
    return [await provider.current(zone), day_before, await provider.ahead(zone)]


async def fault(provider: IntensityProvider) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.ahead(provider.zones[0].id)
    return caught.value


Asked = tuple[Dialect, IntensityProvider]


class TestProviderOfAnApi:
    @pytest.mark.parametrize("kind", ["null", "empty object", "empty list"])
    async def test_nothing_is_no_value_and_no_failure(
        self, asked: Asked, uk_api: UkApi, clock: ManualClock, kind: str
    ) -> None:
        dialect, provider = asked
        rows = [Row(begun(clock.now, dialect.step), None)] if kind == "null" else []

        def body(request: Request) -> Any:
            return {} if kind == "empty object" else dialect.written(rows, request)

        serve(uk_api, lambda request: Answer(body(request)))

        assert [None, [], []] == await answers(provider, clock.now)

    async def test_a_zero_stays_zero(self, asked: Asked, uk_api: UkApi, clock: ManualClock) -> None:
        dialect, provider = asked
        rows = [Row(begun(clock.now, dialect.step), 0)]
        serve(uk_api, lambda request: Answer(dialect.written(rows, request)))
        found = await provider.current(provider.zones[0].id)

        assert found is not None
        assert 0 == found.g_per_kwh

    async def test_a_short_horizon_is_given_as_it_is(
        self, asked: Asked, uk_api: UkApi, clock: ManualClock
    ) -> None:
        dialect, provider = asked
        start = begun(clock.now, dialect.step)
        rows = [Row(start + number * dialect.step, 100 + number, measured=False) for number in range(3)]
        serve(uk_api, lambda request: Answer(dialect.written(rows, request)))
        found = await provider.ahead(provider.zones[0].id)

        assert [row.start for row in rows] == [slot.start for slot in found]
        assert pytest.approx([100, 101, 102]) == [slot.g_per_kwh for slot in found]

    async def test_slots_out_of_order_twice_and_overlapping_make_one_series_with_its_gap(
        self, asked: Asked, uk_api: UkApi, clock: ManualClock
    ) -> None:
        dialect, provider = asked
        start, step = begun(clock.now, dialect.step), dialect.step
        told = [(1, 90), (0, 95), (1, 90), (1.5, 88), (4, 84)]
        rows = [Row(start + place * step, value, measured=False) for place, value in told]
        serve(uk_api, lambda request: Answer(dialect.written(rows, request)))
        series = IntensitySeries.of(await provider.ahead(provider.zones[0].id))
        at = [float(series.values[series.index(start + place * step)]) for place in (0, 1, 3, 4)]

        assert math.isnan(at.pop(2))
        assert pytest.approx([95, 90, 84]) == at

    async def test_a_broken_row_does_not_spoil_the_others(
        self, asked: Asked, uk_api: UkApi, clock: ManualClock
    ) -> None:
        dialect, provider = asked
        row = dialect.row(Row(begun(clock.now, dialect.step), 70, measured=False))
        broken: list[Any] = ["text", 5, None, [], {}, dialect.row(Row(clock.now, -5))]
        serve(uk_api, lambda request: Answer(dialect.wrap(request, [*broken, row])))
        found = await provider.ahead(provider.zones[0].id)

        assert pytest.approx([70]) == [slot.g_per_kwh for slot in found]

    @pytest.mark.parametrize(
        "make",
        [
            lambda wrap: b"<html>",
            lambda wrap: b"[" * 100_000,
            lambda wrap: "text",
            lambda wrap: [[]],
            lambda wrap: {"unknown": 1},
            lambda wrap: wrap(["text", {"v": "1"}]),
            lambda wrap: wrap([{}]),
        ],
    )
    async def test_another_shape_is_malformed(
        self, asked: Asked, uk_api: UkApi, make: Callable[[Callable[[Sequence[Any]], Any]], Any]
    ) -> None:
        dialect, provider = asked
        serve(uk_api, lambda request: Answer(make(lambda rows: dialect.wrap(request, rows))))
        error = await fault(provider)

        assert ("MALFORMED", False) == (error.fault, error.retryable)

    @pytest.mark.parametrize(
        ("status", "retryable"),
        [(400, False), (401, False), (403, False), (404, False), (429, True), (500, True), (503, True)],
    )
    async def test_a_status_is_told_and_whether_it_may_get_better(
        self,
        asked: Asked,
        uk_api: UkApi,
        clock: ManualClock,
        caplog: pytest.LogCaptureFixture,
        status: int,
        retryable: bool,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        serve(uk_api, lambda request: Answer({"error": "no"}, status, {"Retry-After": "7"}))
        error = await fault(asked[1])

        assert (f"HTTP_{status}", retryable) == (error.fault, error.retryable)
        assert timedelta(seconds=7) == error.retry_after
        assert SECRET not in str(error) + caplog.text

    async def test_a_redirect_is_not_followed(self, asked: Asked, uk_api: UkApi) -> None:
        serve(uk_api, lambda request: Answer(None, 302, {"Location": f"{uk_api.url}/elsewhere"}))

        assert "HTTP_302" == (await fault(asked[1])).fault
        assert "/elsewhere" not in [request.path for request in uk_api.requests]

    async def test_a_compressed_answer_is_read(self, asked: Asked, uk_api: UkApi, clock: ManualClock) -> None:
        dialect, provider = asked
        rows = [Row(begun(clock.now, dialect.step), 50)]

        def answer(request: Request) -> Answer:
            body = json.dumps(dialect.written(rows, request)).encode()
            return Answer(gzip.compress(body), headers={"Content-Encoding": "gzip"})

        serve(uk_api, answer)
        found = await provider.current(provider.zones[0].id)

        assert found is not None
        assert 50 == pytest.approx(found.g_per_kwh)

    async def test_an_answer_without_end_is_cut_off(self, asked: Asked, uk_api: UkApi) -> None:
        packed = gzip.compress(b" " * (MAX_ANSWER_BYTES + 1))
        serve(uk_api, lambda request: Answer(packed, headers={"Content-Encoding": "gzip"}))

        assert "TOO_LARGE" == (await fault(asked[1])).fault

    async def test_a_slow_body_ends_with_the_time(self, asked: Asked, uk_api: UkApi) -> None:
        serve(uk_api, lambda request: Answer(b" ", delay_s=0.1, chunks=50))
        error = await fault(asked[1])

        assert ("TIMEOUT", True) == (error.fault, error.retryable)
