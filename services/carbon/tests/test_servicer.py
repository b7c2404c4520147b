"""CarbonService over real mutual TLS: the contract that a caller sees."""

from __future__ import annotations

from datetime import UTC, timedelta

import grpc
import grpc.aio
import httpx
import pytest
from services.carbon.tests.carbon_callers import START, Callers, details, failure

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national
from aegis_common.rpc.server import Running


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
