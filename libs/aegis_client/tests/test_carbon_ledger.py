"""The ledger: the SDK's forms, the report in the terminal, and what a command leaves there."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from libs.aegis_client.tests.conftest import Aegis, UnknownTool, serving
from libs.aegis_client.tests.test_carbon_run import PlanningDeployment

from aegis.carbon.v1 import carbon_service_pb2 as carbon
from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis.carbon.v1 import ledger_service_pb2_grpc as pb_grpc
from aegis_client import AegisApiError, Usage, UsageEntry
from aegis_common.rpc.errors import to_status

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class LedgerDesk(pb_grpc.LedgerServiceServicer):
    """Takes every usage but those named `bad`."""

    def __init__(self) -> None:
        self.usages: list[pb.Usage] = []
        self.queries: list[pb.ReportQuery] = []

    async def RecordUsage(self, request: pb.RecordUsageRequest, context: Any) -> pb.RecordUsageResponse:
        self.usages += request.usages
        answer = pb.RecordUsageResponse()
        for usage in request.usages:
            if usage.id == "bad":
                answer.outcomes.add(error=to_status(UnknownTool("no such zone")))
            else:
                entry = pb.UsageEntry(name=f"usages/{usage.id}", usage=usage, kwh=0.5, estimated=True)
                entry.statements.add(grams=20, saved_grams=-3, signal=carbon.SIGNAL_AVERAGE)
                answer.outcomes.add(entry=entry)
        return answer

    async def GetUsage(self, request: Any, context: Any) -> pb.GetUsageResponse:
        return pb.GetUsageResponse(entry=pb.UsageEntry(name=request.name))

    async def ListUsages(self, request: Any, context: Any) -> pb.ListUsagesResponse:
        return pb.ListUsagesResponse()

    async def ExportReport(self, request: Any, context: Any) -> pb.ExportReportResponse:
        return pb.ExportReportResponse()

    async def QueryReport(self, request: pb.QueryReportRequest, context: Any) -> pb.QueryReportResponse:
        self.queries.append(request.query)
        shared: dict[str, Any] = {"signal": carbon.SIGNAL_AVERAGE, "unit": "call", "estimated": True}
        if not request.page_token:
            row = pb.ReportRow(tool="ocr", entries=2, units=100, kwh=1.0, grams=200, **shared)
            return pb.QueryReportResponse(rows=[row], next_page_token="more")
        row = pb.ReportRow(tool="dark", entries=1, units=1, kwh=0.5, unknown_kwh=0.5, **shared)
        return pb.QueryReportResponse(rows=[row])


class LedgerDeployment(PlanningDeployment):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.desk = LedgerDesk()

    def add_to(self, server: grpc.aio.Server) -> None:
        super().add_to(server)
        pb_grpc.add_LedgerServiceServicer_to_server(self.desk, server)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[LedgerDeployment]:
    with serving(LedgerDeployment(tmp_path / "mesh")) as made:
        yield made


def test_each_usage_has_an_entry_or_an_error(deployment: LedgerDeployment) -> None:
    usage = Usage(
        id="one",
        kind="job",
        start_time=NOON,
        end_time=NOON + HOUR,
        zone="GB",
        measured_joules=0.0,
        energy_method="measured_rapl",
        spans=[(NOON, NOON + HOUR / 2)],
        run_now_start_time=NOON - HOUR,
    )
    with deployment.client() as client:
        good, bad = client.carbon.record_usage(
            [usage, Usage(id="bad", kind="call", start_time=NOON, end_time=NOON + HOUR)]
        )
    sent, plain = deployment.desk.usages

    assert isinstance(good, UsageEntry)
    assert ("usages/one", 20.0, -3.0) == (
        good.name,
        good.statements[0].grams,
        good.statements[0].saved_grams,
    )
    assert good.statements[0].run_now_grams is None
    assert isinstance(bad, AegisApiError)
    assert ("zones/GB", pb.USAGE_KIND_JOB, pb.ENERGY_METHOD_MEASURED_RAPL) == (
        sent.zone,
        sent.kind,
        sent.energy_method,
    )
    assert sent.HasField("measured_joules")
    assert NOON - HOUR == sent.run_now_start_time.ToDatetime(tzinfo=UTC)
    assert not plain.HasField("measured_joules")
    assert not plain.HasField("run_now_start_time")


def test_a_report_says_what_is_estimated_and_what_nobody_knows(
    deployment: LedgerDeployment, aegis: Aegis
) -> None:
    assert aegis("carbon", "report", "--by", "tool", "--since", "7d") == 0
    table = aegis.out
    assert aegis("carbon", "report", "--by", "tool", "-o", "json") == 0
    found = json.loads(aegis.out)
    assert aegis("carbon", "report", "-o", "csv") == 0
    lines = list(csv.DictReader(io.StringIO(aegis.out)))

    assert [pb.DIMENSION_TOOL] == list(deployment.desk.queries[0].by)
    ocr, dark = table.splitlines()[1:]
    assert "200" in ocr
    assert "estimated" in ocr
    assert "unknown" in dark
    assert "0.5 kWh without intensity" in dark
    assert [200.0, None] == [row.get("grams") for row in found]
    assert ["200.0", ""] == [line["grams"] for line in lines]


def test_a_command_is_recorded_with_what_it_used(deployment: LedgerDeployment, aegis: Aegis) -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    command = (sys.executable, "-c", burn)
    options = ("--duration", "1s", "--within", "2s", "--on-missing", "run_now")
    assert aegis("carbon", "run", *options, "--", *command) == 0, aegis.err

    (usage,) = deployment.desk.usages
    assert pb.USAGE_KIND_COMMAND == usage.kind
    assert usage.cpu_seconds >= 0.3
    assert usage.memory_gib_hours > 0
    assert usage.run_now_start_time.ToNanoseconds() <= usage.start_time.ToNanoseconds()
    assert usage.start_time.ToNanoseconds() < usage.end_time.ToNanoseconds()
    assert "0.5 kWh, 20 gCO2e, -3 g saved by waiting (estimated)" in aegis.err
