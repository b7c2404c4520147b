"""LedgerService over real mutual TLS, with a real Redis: the contract that a caller sees."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis.carbon.v1 import ledger_service_pb2_grpc as pb_grpc
from aegis_carbon.main import running
from aegis_carbon.settings import PowerSettings, Settings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.ledger import Grid, usage
from aegis_carbon.testing.uk_api import UkApi
from aegis_common.rpc.errors import details_of, from_status
from aegis_common.rpc.times import timestamp
from aegis_common.testing.pki import Mesh
from aegis_common.testing.redis import RedisServer

POWER = PowerSettings(pue=1.5, cpu_tdp_w=200, cpu_threads=20, embodied_kg=1000, cores=20)
"""10 W a core: an hour of one core is 15 Wh."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


class Service:
    """A carbon service, and stubs of several callers."""

    def __init__(self, mesh: Mesh, port: int, stack: AsyncExitStack) -> None:
        self._mesh, self._port, self._stack = mesh, port, stack

    async def stub(self, token: str = "") -> pb_grpc.LedgerServiceAsyncStub:
        channel = self._mesh.channel(self._port, "carbon", account="agent" if not token else "gateway")
        return pb_grpc.LedgerServiceStub(await self._stack.enter_async_context(channel))

    def of(self, **claims: Any) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {self._mesh.token(**claims)}"),)}


@pytest.fixture
async def service(
    mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path, durable: RedisServer
) -> AsyncIterator[Service]:
    uk_api.answer = Grid(clock)
    kwargs = {**mesh.service_kwargs("carbon"), "audit_dir": tmp_path}
    settings = Settings(
        api_url=uk_api.url, redis_url=SecretStr(durable.url), power=POWER, drain=timedelta(0), **kwargs
    )
    async with running(settings, clock=clock) as server, AsyncExitStack() as stack:
        yield Service(mesh, server.port, stack)


async def record(
    stub: pb_grpc.LedgerServiceAsyncStub, *usages: pb.Usage, **call: Any
) -> list[pb.UsageOutcome]:
    answer = await stub.RecordUsage(pb.RecordUsageRequest(usages=usages), **call)
    return list(answer.outcomes)


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), details_of(caught.value).reason


async def test_energy_and_grams_come_with_their_source_and_interval(
    service: Service, clock: ManualClock
) -> None:
    (outcome,) = await record(await service.stub(), usage(clock, "one", ago=3))
    entry = outcome.entry
    (stated,) = entry.statements

    assert "usages/one" == entry.name
    assert ("zones/GB", "job", 1.0) == (entry.usage.zone, entry.usage.unit, entry.usage.units)
    assert pytest.approx(0.015) == entry.kwh
    assert pytest.approx([0.0075, 0.0195]) == [entry.kwh_low, entry.kwh_high]
    assert pytest.approx(3.0) == stated.grams
    assert (pb.INTENSITY_KIND_ACTUAL, ["uk"], 0.0) == (
        stated.intensity_kind,
        list(stated.providers),
        stated.unknown_kwh,
    )
    assert entry.estimated  # its energy is modelled
    assert not stated.HasField("saved_grams")
    assert pytest.approx(1_000_000 * 3600 / (4 * 365 * 86400 * 20)) == entry.embodied_grams


async def test_measured_energy_and_measured_intensity_are_no_estimate(
    service: Service, clock: ManualClock
) -> None:
    measured = usage(
        clock, "rapl", ago=3, measured_joules=3.6e6, energy_method=pb.ENERGY_METHOD_MEASURED_RAPL
    )
    (outcome,) = await record(await service.stub(), measured)

    assert not outcome.entry.estimated
    assert pytest.approx(1.5) == outcome.entry.kwh
    assert pytest.approx(300) == outcome.entry.statements[0].grams


async def test_the_same_usage_again_is_the_same_entry_and_counts_once(
    service: Service, clock: ManualClock
) -> None:
    stub = await service.stub()
    first = await record(stub, usage(clock, "one", ago=3))
    clock.move(minutes=1)
    again = usage(clock, "one", ago=3 + 1 / 60)
    other = usage(clock, "one", ago=3 + 1 / 60, cpu_seconds=1)
    second = await record(stub, again, other, again)
    report = await stub.QueryReport(pb.QueryReportRequest())

    assert first[0].entry == second[0].entry == second[2].entry
    assert "USAGE_ID_REUSED" == from_status(second[1].error).reason
    assert [1] == [row.entries for row in report.rows]


async def test_each_usage_has_an_outcome_of_its_own(service: Service, clock: ManualClock) -> None:
    late = usage(clock, "late")
    late.end_time.FromDatetime(clock.now + timedelta(hours=1))
    contradiction = usage(clock, "odd", energy_method=pb.ENERGY_METHOD_MEASURED_RAPL)
    outcomes = await record(
        await service.stub(), usage(clock, "x", zone="zones/GX"), late, contradiction, usage(clock, "fine")
    )

    reasons = [from_status(found.error).reason for found in outcomes[:3]]
    assert ["UNKNOWN_ZONE", "INVALID_ARGUMENT", "INVALID_ARGUMENT"] == reasons
    assert "usages/fine" == outcomes[3].entry.name


async def test_waiting_is_compared_with_running_at_once(
    service: Service, clock: ManualClock, uk_api: UkApi
) -> None:
    start = clock.now - timedelta(hours=4)
    waited = usage(
        clock, "waited", hours=1, ago=3, run_now_start_time=timestamp(start - timedelta(hours=5)), units=2
    )
    stub = await service.stub()
    (outcome,) = await record(stub, waited)
    (row,) = (await stub.QueryReport(pb.QueryReportRequest())).rows

    assert pytest.approx(0.0, abs=1e-9) == outcome.entry.statements[0].saved_grams
    assert (1, 0) == (row.compared_entries, row.worse_entries)
    assert pytest.approx((row.grams + row.embodied_grams) / 2) == row.sci_g_per_unit


async def test_a_report_is_grouped_and_has_pages_and_files(service: Service, clock: ManualClock) -> None:
    stub = await service.stub()
    await record(
        stub,
        *(usage(clock, f"a{n}", ago=3, tool="ocr", kind=pb.USAGE_KIND_CALL, units=100) for n in range(3)),
        usage(clock, "b", ago=30, tool="=evil()"),
    )
    query = pb.ReportQuery(by=[pb.DIMENSION_TOOL, pb.DIMENSION_DAY])
    first = await stub.QueryReport(pb.QueryReportRequest(query=query, page_size=1))
    second = await stub.QueryReport(
        pb.QueryReportRequest(query=query, page_size=1, page_token=first.next_page_token)
    )

    rows = [*first.rows, *second.rows]
    assert [("=evil()", "2026-03-03", 1), ("ocr", "2026-03-04", 3)] == [
        (row.tool, row.day, row.entries) for row in rows
    ]
    assert pytest.approx(300) == rows[1].units
    assert pytest.approx(9.0) == rows[1].grams
    assert not second.next_page_token

    gateway = await service.stub("person")
    call = service.of(roles=["viewer"])
    text = await gateway.ExportReport(pb.ExportReportRequest(query=query), **call)
    table = list(csv.DictReader(io.StringIO(text.content.data.decode())))
    assert ["'=evil()", "ocr"] == [line["tool"] for line in table]
    assert pytest.approx(9.0) == float(table[1]["grams"])
    found = await gateway.ExportReport(
        pb.ExportReportRequest(query=query, format=pb.EXPORT_FORMAT_JSON), **call
    )
    assert "application/json" == found.content.content_type
    assert ["=evil()", "ocr"] == [line["tool"] for line in json.loads(found.content.data)]


async def test_tenants_see_their_own_and_admins_all(service: Service, clock: ManualClock) -> None:
    gateway = await service.stub("person")
    red, blue = service.of(tenant="red"), service.of(tenant="blue", roles=["admin"])
    await record(gateway, usage(clock, "one", ago=3), **red)
    await record(gateway, usage(clock, "one", ago=4), **blue)
    everyone = pb.QueryReportRequest(query=pb.ReportQuery(by=[pb.DIMENSION_TENANT], all_tenants=True))

    assert "PERMISSION_DENIED" == (await failure(gateway.QueryReport(everyone, **red)))[0].name
    rows = (await gateway.QueryReport(everyone, **blue)).rows
    assert [("blue", 1), ("red", 1)] == [(row.tenant, row.entries) for row in rows]
    own = await gateway.ListUsages(pb.ListUsagesRequest(), **red)
    assert ["usages/one"] == [entry.name for entry in own.entries]
    missing = gateway.GetUsage(pb.GetUsageRequest(name="usages/two"), **red)
    assert (grpc.StatusCode.NOT_FOUND, "UNKNOWN_USAGE") == await failure(missing)


async def test_entries_are_listed_by_their_end_in_pages(service: Service, clock: ManualClock) -> None:
    stub = await service.stub()
    await record(stub, *(usage(clock, f"u{n}", ago=n // 2) for n in range(5)))
    names, token = [], ""
    while True:
        page = await stub.ListUsages(pb.ListUsagesRequest(page_size=2, page_token=token))
        names += [entry.name.removeprefix("usages/") for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    since = await stub.ListUsages(pb.ListUsagesRequest(since=timestamp(clock.now - timedelta(minutes=1))))

    assert ["u1", "u0", "u3", "u2", "u4"] == names
    assert 2 == len(since.entries)
    broken = stub.ListUsages(pb.ListUsagesRequest(page_token=page.next_page_token or "x"))
    assert "INVALID_PAGE_TOKEN" == (await failure(broken))[1]


async def test_what_nobody_knows_is_unset_and_not_zero(
    service: Service, clock: ManualClock, uk_api: UkApi
) -> None:
    grid = Grid(clock)
    grid.down = True
    uk_api.answer = grid
    stub = await service.stub()
    (outcome,) = await record(stub, usage(clock, "dark", ago=3))
    (row,) = (await stub.QueryReport(pb.QueryReportRequest())).rows

    (stated,) = outcome.entry.statements
    assert not stated.HasField("grams")
    assert pytest.approx(0.015) == stated.unknown_kwh == row.unknown_kwh
    assert not row.HasField("grams")
    assert not row.HasField("sci_g_per_unit")
    assert row.estimated


async def test_without_a_store_every_call_says_how_to_get_one(
    mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path, redis: RedisServer
) -> None:
    kwargs = {**mesh.service_kwargs("carbon"), "audit_dir": tmp_path, "drain": timedelta(0)}
    # The second Redis forgets: it is good enough for a cache, and for nothing else.
    for url in ("", redis.url):
        settings = Settings(api_url=uk_api.url, redis_url=SecretStr(url), **kwargs)
        async with (
            running(settings, clock=clock) as server,
            mesh.channel(server.port, "carbon", account="agent") as channel,
        ):
            stub = pb_grpc.LedgerServiceStub(channel)
            call = stub.RecordUsage(pb.RecordUsageRequest(usages=[usage(clock, "one")]))
            found = await failure(call)

        assert (grpc.StatusCode.FAILED_PRECONDITION, "LEDGER_NOT_CONFIGURED") == found


async def test_a_store_that_is_away_is_told_and_what_was_recorded_is_kept(
    service: Service, clock: ManualClock, durable: RedisServer
) -> None:
    stub = await service.stub()
    await record(stub, usage(clock, "one", ago=3))
    durable.kill()
    away = await failure(stub.GetUsage(pb.GetUsageRequest(name="usages/one")))
    durable.start()
    found = await stub.GetUsage(pb.GetUsageRequest(name="usages/one"))

    assert (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE") == away
    assert "usages/one" == found.entry.name
