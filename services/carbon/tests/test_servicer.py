"""CarbonService over real mutual TLS: the contract that a caller sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_carbon.main import running
from aegis_carbon.settings import Settings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national
from aegis_common.rpc.server import Running
from aegis_common.testing.pki import Mesh

START = datetime(2026, 3, 4, 10, tzinfo=UTC)
TOO_MUCH = pb.ForecastRule(duration=Duration(seconds=9), min_saving=2)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
async def server(mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Running]:
    settings = Settings(
        api_url=uk_api.url,
        zone_thresholds={"GB-wales": 90},
        drain=timedelta(0),
        **{**mesh.service_kwargs("carbon"), "audit_dir": tmp_path},
    )
    async with running(settings, clock=clock) as server:
        yield server


class Callers:
    """Makes stubs for the accounts of a mesh."""

    def __init__(self, mesh: Mesh, port: int, stack: AsyncExitStack) -> None:
        self._mesh, self._port, self._stack = mesh, port, stack

    async def stub(self, account: str) -> pb_grpc.CarbonServiceAsyncStub:
        channel = self._mesh.channel(self._port, "carbon", account=account)
        stub: pb_grpc.CarbonServiceAsyncStub = pb_grpc.CarbonServiceStub(
            await self._stack.enter_async_context(channel)
        )
        return stub


@pytest.fixture
async def callers(server: Running, mesh: Mesh) -> AsyncIterator[Callers]:
    async with AsyncExitStack() as stack:
        yield Callers(mesh, server.port, stack)


@pytest.fixture
async def carbon(callers: Callers) -> pb_grpc.CarbonServiceAsyncStub:
    return await callers.stub("agent")


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # stub types sync calls only
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status is not None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return info, retry


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_intensity_comes_with_slot_label_source_and_age(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi, clock: ManualClock
) -> None:
    uk_api.default = national(START, forecast=186, actual=None)
    await carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB"))
    clock.move(minutes=3)
    found = (await carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB"))).intensity

    assert ("zones/GB", 186.0, "uk") == (found.zone, found.g_per_kwh, found.source)
    assert (pb.SIGNAL_AVERAGE, pb.QUALITY_FORECAST) == (found.signal, found.quality)
    assert START == found.start_time.ToDatetime(UTC)
    assert START + timedelta(minutes=30) == found.end_time.ToDatetime(UTC)
    assert clock.now - timedelta(minutes=3) == found.fetch_time.ToDatetime(UTC)
    assert timedelta(minutes=3) == found.age.ToTimedelta()


@pytest.mark.parametrize(
    ("body", "label"),
    [({"forecast": 1, "actual": 2}, pb.QUALITY_ACTUAL), ({"forecast": 1}, pb.QUALITY_FORECAST)],
)
async def test_each_label_has_its_cause(
    carbon: pb_grpc.CarbonServiceAsyncStub,
    uk_api: UkApi,
    clock: ManualClock,
    body: dict[str, int],
    label: pb.Quality.ValueType,
) -> None:
    uk_api.default = national(START, **body)
    fresh = await carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB"))
    uk_api.default = Answer(None, 400)
    clock.move(minutes=45)
    stale = await carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB"))
    synthetic = await carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/demo-day"))

    assert [label, pb.QUALITY_STALE, pb.QUALITY_SYNTHETIC] == [
        answer.intensity.quality for answer in (fresh, stale, synthetic)
    ]


async def test_an_unknown_zone_is_not_found_with_near_matches(carbon: pb_grpc.CarbonServiceAsyncStub) -> None:
    for call in (
        carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB-Londn")),
        carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB-Londn")),
    ):
        error = await failure(call)
        info, _ = details(error)

        assert grpc.StatusCode.NOT_FOUND == error.code()
        assert "UNKNOWN_ZONE" == info.reason
        assert "GB-Londn" == info.metadata["zone"]
        assert "GB-london" in info.metadata["near_matches"].split(",")
        assert "GB-london" in (error.details() or "")


async def test_missing_data_is_unavailable_and_never_0(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = Answer({"data": []})
    error = await failure(carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB")))
    info, retry = details(error)

    assert (grpc.StatusCode.UNAVAILABLE, "NO_INTENSITY_DATA") == (error.code(), info.reason)
    assert {"zone": "GB", "providers": "uk: NO_DATA"} == dict(info.metadata)
    assert timedelta(seconds=60) == retry.retry_delay.ToTimedelta()


async def test_a_caller_with_little_time_gets_an_answer_in_it(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = Answer({"data": []}, delay_s=20)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB"), timeout=2)

    assert (pb.DECISION_RUN_NOW, pb.REASON_NO_DATA) == (response.decision, response.reason)


@pytest.mark.parametrize("value", [100.0, 150.0])
async def test_work_starts_at_or_below_the_zones_threshold(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi, value: float
) -> None:
    uk_api.default = national(START, forecast=value)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB"))

    assert (pb.DECISION_RUN_NOW, pb.REASON_BELOW_THRESHOLD) == (response.decision, response.reason)
    assert (150.0, value) == (response.threshold_g_per_kwh, response.intensity.g_per_kwh)
    assert not response.HasField("retry_after")


async def test_work_waits_above_it_until_the_slot_ends(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = Answer({"data": national(START, forecast=100).body["data"]})
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB-wales"))

    assert (pb.DECISION_WAIT, pb.REASON_ABOVE_THRESHOLD) == (response.decision, response.reason)
    assert 90.0 == response.threshold_g_per_kwh
    assert timedelta(minutes=18) == response.retry_after.ToTimedelta()


async def test_a_call_may_bring_its_own_threshold(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = national(START, forecast=100)
    for limit, decision in ((99.9, pb.DECISION_WAIT), (100, pb.DECISION_RUN_NOW)):
        request = pb.CheckScheduleRequest(zone="zones/GB", max_intensity_g_per_kwh=limit)
        response = await carbon.CheckSchedule(request)

        assert (decision, limit) == (response.decision, response.threshold_g_per_kwh)


async def test_a_percentile_of_the_last_week_decides(
    carbon: pb_grpc.CarbonServiceAsyncStub, clock: ManualClock
) -> None:
    seen = []
    for hour in range(24):
        clock.now = START + timedelta(hours=hour)
        request = pb.CheckScheduleRequest(zone="zones/demo-day", percentile=30)
        seen.append(await carbon.CheckSchedule(request))

    ran = [answer for answer in seen if answer.decision == pb.DECISION_RUN_NOW]
    waited = [answer for answer in seen if answer.decision == pb.DECISION_WAIT]
    assert 3 <= len(ran) <= 12
    assert {pb.REASON_BELOW_PERCENTILE} == {answer.reason for answer in ran}
    assert {pb.REASON_ABOVE_PERCENTILE} == {answer.reason for answer in waited}
    assert all(answer.intensity.g_per_kwh <= answer.threshold_g_per_kwh for answer in ran)
    for answer in waited:
        assert answer.next_window.start_time.ToDatetime() >= answer.intensity.end_time.ToDatetime()
        assert answer.next_window.g_per_kwh <= answer.threshold_g_per_kwh


async def test_a_forecast_says_whether_waiting_is_worth_it(
    carbon: pb_grpc.CarbonServiceAsyncStub, clock: ManualClock
) -> None:
    clock.now = START.replace(hour=18)  # the evening peak; it is cleaner at night

    def asked(hours: float, min_saving: float | None = None) -> pb.CheckScheduleRequest:
        rule = pb.ForecastRule(duration=Duration(seconds=7200), min_saving=min_saving)
        rule.deadline.FromDatetime(clock.now + timedelta(hours=hours))
        return pb.CheckScheduleRequest(zone="zones/demo-day", forecast=rule)

    worth, not_worth, late = [
        await carbon.CheckSchedule(request) for request in (asked(14), asked(14, 0.95), asked(1))
    ]

    assert (pb.DECISION_WAIT, pb.REASON_BETTER_WINDOW) == (worth.decision, worth.reason)
    assert worth.next_window.end_time.ToDatetime() <= (clock.now + timedelta(hours=14)).replace(tzinfo=None)
    assert worth.next_window.g_per_kwh < 0.95 * worth.intensity.g_per_kwh
    assert timedelta(0) < worth.retry_after.ToTimedelta() <= timedelta(hours=1)
    assert (pb.DECISION_RUN_NOW, pb.REASON_NO_BETTER_WINDOW) == (not_worth.decision, not_worth.reason)
    assert (pb.DECISION_RUN_NOW, pb.REASON_LATEST_START) == (late.decision, late.reason)


async def test_whoever_follows_the_forecast_rule_is_never_late(
    carbon: pb_grpc.CarbonServiceAsyncStub, clock: ManualClock
) -> None:
    clock.now = START.replace(hour=17, minute=7)
    deadline = clock.now + timedelta(hours=9)
    rule = pb.ForecastRule(duration=Duration(seconds=5400))
    rule.deadline.FromDatetime(deadline)
    while True:
        answer = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/demo-day", forecast=rule))
        if answer.decision == pb.DECISION_RUN_NOW:
            break
        clock.now += answer.retry_after.ToTimedelta()

    assert clock.now + timedelta(minutes=90) <= deadline


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (pb.CheckScheduleRequest(percentile=20, max_intensity_g_per_kwh=9), "different rules; give one"),
        (pb.CheckScheduleRequest(percentile=0), "percentile"),
        (pb.CheckScheduleRequest(forecast=pb.ForecastRule()), "duration"),
        (pb.CheckScheduleRequest(forecast=TOO_MUCH), "min_saving"),
    ],
)
async def test_a_rule_that_contradicts_itself_is_refused(
    carbon: pb_grpc.CarbonServiceAsyncStub, request_: pb.CheckScheduleRequest, told: str
) -> None:
    error = await failure(carbon.CheckSchedule(request_))

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    assert told in str(error.details())


@pytest.mark.parametrize("rule", [{"percentile": 20}, {"forecast": {"duration": "60s"}}])
async def test_without_history_on_missing_decides(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi, rule: dict[str, Any]
) -> None:
    uk_api.default = Answer(None, 400)
    request = json_format.ParseDict(
        {"zone": "zones/GB", "onMissing": "ON_MISSING_WAIT", **rule}, pb.CheckScheduleRequest()
    )
    answer = await carbon.CheckSchedule(request)

    assert (pb.DECISION_WAIT, pb.REASON_NO_DATA) == (answer.decision, answer.reason)


async def test_a_call_without_a_zone_gets_the_default_zone(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = national(START, forecast=100)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest())

    assert "zones/GB" == response.intensity.zone


@pytest.mark.parametrize(
    ("on_missing", "decision"),
    [
        (pb.ON_MISSING_UNSPECIFIED, pb.DECISION_RUN_NOW),
        (pb.ON_MISSING_RUN_NOW, pb.DECISION_RUN_NOW),
        (pb.ON_MISSING_WAIT, pb.DECISION_WAIT),
    ],
)
async def test_missing_data_does_not_fail_a_check(
    carbon: pb_grpc.CarbonServiceAsyncStub,
    uk_api: UkApi,
    on_missing: pb.OnMissing.ValueType,
    decision: pb.Decision.ValueType,
) -> None:
    uk_api.default = Answer(None, 400)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB", on_missing=on_missing))

    assert (decision, pb.REASON_NO_DATA) == (response.decision, response.reason)
    assert not response.HasField("intensity")
    assert (decision == pb.DECISION_WAIT) == response.HasField("retry_after")


async def test_zones_are_listed_in_pages_ordered_by_name(carbon: pb_grpc.CarbonServiceAsyncStub) -> None:
    whole = await carbon.ListZones(pb.ListZonesRequest())
    zones, token = list[pb.Zone](), ""
    while True:
        part = await carbon.ListZones(pb.ListZonesRequest(page_size=4, page_token=token))
        assert len(part.zones) <= 4
        zones += part.zones
        token = part.next_page_token
        if not token:
            break

    names = [zone.name for zone in zones]
    assert list(whole.zones) == zones
    assert sorted(names) == names
    assert ["zones/GB"] == [zone.name for zone in zones if zone.default]
    by_name = {zone.name: zone for zone in zones}
    assert ("Great Britain", ["uk"], 150.0) == (
        by_name["zones/GB"].display_name,
        list(by_name["zones/GB"].providers),
        by_name["zones/GB"].threshold_g_per_kwh,
    )
    assert 90.0 == by_name["zones/GB-wales"].threshold_g_per_kwh
    assert ["replay"] == list(by_name["zones/demo-day"].providers)


@pytest.mark.parametrize("token", ["nonsense", "WyJhIiwiYiJd"])
async def test_a_token_of_another_query_is_refused(
    carbon: pb_grpc.CarbonServiceAsyncStub, token: str
) -> None:
    error = await failure(carbon.ListZones(pb.ListZonesRequest(page_token=token)))
    info, _ = details(error)

    assert (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN") == (error.code(), info.reason)


async def test_a_place_is_resolved_with_its_source(carbon: pb_grpc.CarbonServiceAsyncStub) -> None:
    by_region = await carbon.ResolveZone(pb.ResolveZoneRequest(topology_label="europe-west2-a"))
    point = pb.Location(latitude=51.6, longitude=-0.4)
    by_point = await carbon.ResolveZone(pb.ResolveZoneRequest(location=point))

    assert "gcp/europe-west2 (London, GB)" == by_region.place
    [found] = by_region.zones
    assert ("zones/GB", "Great Britain", ["uk"]) == (found.zone, found.display_name, list(found.providers))
    assert (pb.ZONE_QUALITY_EXACT, "table") == (found.quality, found.source)
    assert found.table_version
    assert not found.HasField("distance_km")
    assert (pb.ZONE_QUALITY_NEAREST, "London") == (by_point.zones[0].quality, by_point.zones[0].near)
    assert 0 < by_point.zones[0].distance_km < 30


async def test_a_place_that_is_not_covered_is_not_found(carbon: pb_grpc.CarbonServiceAsyncStub) -> None:
    error = await failure(carbon.ResolveZone(pb.ResolveZoneRequest(cloud_region="aws/eu-central-1")))
    info, _ = details(error)

    assert (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ZONE") == (error.code(), info.reason)
    assert "electricity_maps:DE" in info.metadata["could_cover"]


@pytest.mark.parametrize(
    "request_",
    [
        pb.ResolveZoneRequest(),
        pb.ResolveZoneRequest(country="D"),
        pb.ResolveZoneRequest(postcode="12345"),
        pb.ResolveZoneRequest(cloud_region=""),
        pb.ResolveZoneRequest(location=pb.Location(latitude=1)),
        pb.ResolveZoneRequest(location=pb.Location(latitude=91, longitude=0)),
        pb.ResolveZoneRequest(location=pb.Location(latitude=float("nan"), longitude=0)),
    ],
)
async def test_a_place_of_a_wrong_form_is_refused(
    carbon: pb_grpc.CarbonServiceAsyncStub, request_: pb.ResolveZoneRequest
) -> None:
    assert grpc.StatusCode.INVALID_ARGUMENT == (await failure(carbon.ResolveZone(request_))).code()


async def test_a_value_out_of_range_is_an_invalid_argument(carbon: pb_grpc.CarbonServiceAsyncStub) -> None:
    unknown_enum = pb.CheckScheduleRequest.FromString(b"\x18\x09")
    for call in (
        carbon.GetIntensity(pb.GetIntensityRequest()),
        carbon.GetIntensity(pb.GetIntensityRequest(zone="GB")),
        carbon.GetIntensity(pb.GetIntensityRequest(zone="zones/GB/x")),
        carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/..")),
        carbon.CheckSchedule(pb.CheckScheduleRequest(max_intensity_g_per_kwh=0)),
        carbon.CheckSchedule(pb.CheckScheduleRequest(max_intensity_g_per_kwh=5001)),
        carbon.CheckSchedule(pb.CheckScheduleRequest(max_intensity_g_per_kwh=float("nan"))),
        carbon.CheckSchedule(unknown_enum),
        carbon.ListZones(pb.ListZonesRequest(page_size=-1)),
        carbon.ListZones(pb.ListZonesRequest(page_size=1001)),
    ):
        assert grpc.StatusCode.INVALID_ARGUMENT == (await failure(call)).code()


async def test_who_may_ask_follows_the_access_option(callers: Callers) -> None:
    for account in ("agent", "fl-coordinator", "viewer", "sdk", "admin"):
        stub = await callers.stub(account)
        assert (await stub.ListZones(pb.ListZonesRequest())).zones
    for account in ("debugger", "fl-edge"):
        stub = await callers.stub(account)
        error = await failure(stub.ListZones(pb.ListZonesRequest()))
        assert grpc.StatusCode.PERMISSION_DENIED == error.code()


async def test_decisions_and_questions_are_counted(
    carbon: pb_grpc.CarbonServiceAsyncStub, server: Running, uk_api: UkApi
) -> None:
    uk_api.default = Answer(None, 400)
    await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB"))
    await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/demo-clean"))
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{server.ops_port}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("carbon_")]

    assert any(
        'carbon_provider_requests_total{outcome="http_400",provider="uk",topic="present"} 1.0' in line
        for line in lines
    )
    assert any('quality="synthetic"' in line and 'source="replay"' in line for line in lines)
    assert any('quality="none"' in line and 'reason="no_data"' in line for line in lines)
