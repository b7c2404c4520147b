"""Forecasts and plans: the SDK's forms, and what the terminal shows of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from libs.aegis_client.tests.conftest import START, Aegis, Deployment, UnknownTool, serving

from aegis.carbon.v1 import carbon_service_pb2 as carbon
from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis.carbon.v1 import plan_service_pb2_grpc as pb_grpc
from aegis_client import AegisApiError, Plan, PlannedJob, UsageError
from aegis_client.cli.sparkline import marks, sparkline
from aegis_common.rpc.errors import to_status

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hour(number: int) -> Timestamp:
    """Return the moment so many hours after the start."""
    return Timestamp(seconds=START.seconds + 3600 * number)


class Plans(pb_grpc.PlanServiceServicer):
    """The intensity rises by 10 g/kWh each hour; every job runs in the fourth and fifth hour."""

    def __init__(self) -> None:
        self.forecasts: list[pb.GetForecastRequest] = []
        self.jobs: list[pb.PlannedJob] = []

    async def GetForecast(self, request: pb.GetForecastRequest, context: Any) -> pb.GetForecastResponse:
        self.forecasts.append(request)
        slots = [
            pb.ForecastSlot(start_time=hour(n), end_time=hour(n + 1), g_per_kwh=100 + 10 * n)
            for n in range(24)
        ]
        part = pb.ForecastPart(
            start_time=hour(0), end_time=hour(20), source="uk", quality=carbon.QUALITY_FORECAST
        )
        zone = request.zone.replace("-", "GB")
        answer = pb.GetForecastResponse(
            zone=zone, signal=carbon.SIGNAL_AVERAGE, slots=slots, parts=[part], past_source="uk"
        )
        for number in (-4, -3, -1) if request.with_past else ():
            answer.past_slots.add(start_time=hour(number), end_time=hour(number + 1), g_per_kwh=100)
        return answer

    async def PlanWindow(self, request: pb.PlanWindowRequest, context: Any) -> pb.PlanWindowResponse:
        self.jobs.append(request.job)
        zone = [*request.job.zones, "zones/GB"][0]
        spans = [pb.PlanSpan(start_time=hour(3), end_time=hour(5))]
        plan = pb.Plan(zone=zone, spans=spans, deadline=hour(22), saving=0.5)
        return pb.PlanWindowResponse(plan=plan)

    async def BatchPlanWindows(
        self, request: pb.BatchPlanWindowsRequest, context: Any
    ) -> pb.BatchPlanWindowsResponse:
        plan = pb.Plan(zone="zones/GB", saving_low=0.25, saving_high=0.5)
        outcomes = [pb.PlanOutcome(plan=plan)]
        outcomes += [pb.PlanOutcome(error=to_status(UnknownTool("no"))) for _ in request.jobs[1:]]
        return pb.BatchPlanWindowsResponse(outcomes=outcomes)


class PlanningDeployment(Deployment):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plans = Plans()

    def add_to(self, server: grpc.aio.Server) -> None:
        super().add_to(server)
        pb_grpc.add_PlanServiceServicer_to_server(self.plans, server)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[PlanningDeployment]:
    with serving(PlanningDeployment(tmp_path / "mesh")) as made:
        yield made


def test_a_forecast_has_slots_and_sources(deployment: PlanningDeployment) -> None:
    with deployment.client() as client:
        found = client.carbon.forecast(horizon=HOUR)

    assert ("zones/GB", "AVERAGE", 24) == (found.zone, found.signal, len(found.slots))
    assert found.slots[0].end_time == found.slots[1].start_time
    assert [("uk", "FORECAST")] == [(part.source, part.quality) for part in found.parts]
    assert ("zones/-", 3600) == (
        deployment.plans.forecasts[0].zone,
        deployment.plans.forecasts[0].horizon.seconds,
    )


def test_a_plan_is_asked_for_with_all_that_the_job_may_do(deployment: PlanningDeployment) -> None:
    job = PlannedJob(
        duration=HOUR,
        zones=["DE", "zones/FR"],
        deadline=NOON,
        interruptible=True,
        min_chunk=600,
        max_interruptions=0,
    )
    with deployment.client() as client:
        found = client.carbon.plan(job)
    sent = deployment.plans.jobs[0]

    assert ("zones/DE", 0.5) == (found.zone, found.saving)
    assert found.saving_low is None
    assert ["zones/DE", "zones/FR"] == list(sent.zones)
    assert (3600, 600) == (sent.duration.seconds, sent.interruption.min_chunk.seconds)
    assert sent.interruption.HasField("max_interruptions")
    assert NOON == sent.deadline.ToDatetime(tzinfo=UTC)


def test_power_goes_part_by_part(deployment: PlanningDeployment) -> None:
    with deployment.client() as client:
        client.carbon.plan(PlannedJob(duration=3, power=[(1, 0.5), (HOUR, 2.0)]))

    assert [(1, 0.5), (3600, 2.0)] == [
        (part.duration.seconds, part.kw) for part in deployment.plans.jobs[0].power
    ]
    assert not deployment.plans.jobs[0].HasField("interruption")


def test_a_batch_has_a_plan_or_an_error_for_each_job(deployment: PlanningDeployment) -> None:
    with deployment.client() as client:
        good, bad = client.carbon.plans([PlannedJob(duration=1), PlannedJob(duration=1, zones=["XX"])])

    assert isinstance(good, Plan)
    assert (0.25, 0.5) == (good.saving_low, good.saving_high)
    assert isinstance(bad, AegisApiError)
    assert "NOT_FOUND" == bad.code


@pytest.mark.parametrize(
    ("job", "fault"),
    [
        (PlannedJob(duration=1, deadline=NOON.replace(tzinfo=None)), "deadline .* has no time zone"),
        (PlannedJob(duration=1, min_chunk=1), "go with interruptible=True"),
        (PlannedJob(duration=1, zones=["a/b"]), "is not a zone's resource name; use zones/ZONE"),
    ],
)
def test_a_job_that_cannot_be_sent_is_refused_at_once(
    deployment: PlanningDeployment, job: PlannedJob, fault: str
) -> None:
    with deployment.client() as client, pytest.raises(UsageError, match=fault):
        client.carbon.plan(job)

    assert deployment.plans.jobs == []


def test_the_terminal_shows_the_series_with_the_run_marked_below(aegis: Aegis) -> None:
    assert aegis("carbon", "plan", "--duration", "2h", "--within", "20h", "--zone", "GB") == 0

    line, below, *fields = aegis.out.splitlines()
    assert (24, "▁", "█") == (len(line), line[0], line[-1])
    assert below == "   ^^"
    assert any(field.split() == ["saving", "50", "%"] for field in fields)
    assert aegis("carbon", "plan", "--duration", "2h", "-o", "json") == 0
    assert json.loads(aegis.out)["spans"][0]["start_time"].endswith("Z")


def test_the_terminal_shows_a_forecast_and_where_it_comes_from(aegis: Aegis) -> None:
    assert aegis("carbon", "forecast", "GB", "--horizon", "1d") == 0
    assert "uk (forecast) 20 h 0 min" in aegis.out
    assert "100 gCO2e/kWh" in aegis.out
    assert aegis("carbon", "forecast", "-o", "json") == 0
    assert len(json.loads(aegis.out)["slots"]) == 24


def test_now_shows_the_day_before_and_the_day_after_with_its_gap(aegis: Aegis) -> None:
    assert aegis("carbon", "now", "--postcode", "SW1A 1AA") == 0
    line, below, *fields = aegis.out.splitlines()
    told = {field[: field.index("  ")]: field.split("  ")[-1].strip() for field in fields}

    assert ("▁▁ ▁▁", 16, "    ^ now") == (line[:5], len(line), below)
    assert "somewhere: exact, by table 2026-01-01" == told["place"]
    assert ("120 gCO2e/kWh (average)", "actual", "replay") == (told["now"], told["quality"], told["source"])
    assert "run now: below threshold (150 gCO2e/kWh)" == told["decision"]


def test_now_is_json_as_well(aegis: Aegis) -> None:
    assert aegis("carbon", "now", "--zone", "GB", "-o", "json") == 0
    found = json.loads(aegis.out)

    assert found["place"] is None
    assert ("RUN_NOW", 120) == (found["decision"]["decision"], found["decision"]["intensity"]["g_per_kwh"])
    assert 3 == len(found["forecast"]["past_slots"])


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("--region", "aws/eu-west-2", "cloud_region"),
        ("--country", "GB", "country"),
        ("--postcode", "SW1A", "postcode"),
        ("--location", "51.5,-0.1", "location"),
        ("--topology-label", "eu-west-2a", "topology_label"),
    ],
)
def test_a_place_stands_for_a_zone(
    aegis: Aegis, deployment: PlanningDeployment, option: str, value: str, kind: str
) -> None:
    assert aegis("carbon", "plan", "--duration", "2h", option, value) == 0
    assert aegis("carbon", "forecast", option, value) == 0
    assert aegis("carbon", "check", option, value) == 0
    assert aegis("carbon", "resolve", option, value) == 0

    assert [kind] * 4 == [place.WhichOneof("place") for place in deployment.carbon.places]
    assert ["zones/GB"] == list(deployment.plans.jobs[0].zones)
    assert ["zones/GB"] * 2 == [request.zone for request in deployment.plans.forecasts]
    assert "zones/GB" == deployment.carbon.checks[0].zone


def test_a_zone_that_is_a_guess_is_told_as_one(aegis: Aegis) -> None:
    assert aegis("carbon", "forecast", "--location", "51.5,-0.1") == 0
    assert "lies in zones/GB, nearest: London is 7 km away" in aegis.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("now", "--zone", "GB", "--country", "GB"), "give one of them"),
        (("forecast", "GB", "--country", "GB"), "give one of them"),
        (("plan", "--duration", "1h", "--zone", "GB", "--country", "GB"), "give one of them"),
        (("now", "--country", "GB", "--postcode", "SW1A"), "name one place, not 2"),
        (("now", "--location", "here"), "for example 51.5,-0.13"),
        (("resolve",), "name a place"),
        (("check", "--country", "GB", "--show-curl"), "takes a zone"),
    ],
)
def test_places_that_contradict_each_other_are_refused(
    aegis: Aegis, arguments: tuple[str, ...], told: str
) -> None:
    assert aegis("carbon", *arguments) == 2
    assert told in aegis.err


def test_a_place_that_is_not_known_is_told(aegis: Aegis) -> None:
    assert aegis("carbon", "now", "--country", "XX") != 0
    assert "'XX' is not known" in aegis.err


def test_within_and_deadline_are_one_or_the_other(aegis: Aegis) -> None:
    assert aegis("carbon", "plan", "--duration", "2h", "--within", "3h", "--deadline", "4h") == 2
    assert "give one of them" in aegis.err


def test_a_series_is_drawn_as_wide_as_the_terminal_and_in_its_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "▁█▁█" == sparkline([1, 9, 1, 9], 4)
    assert "▁█" == sparkline([1, 1, 9, 9], 2)
    assert "▁▁" == sparkline([5, 5], 9)
    assert "" == sparkline([], 9)
    monkeypatch.setattr(sys, "stdout", type("Plain", (), {"encoding": "ascii"})())
    assert "_#" == sparkline([1, 9], 9)


def test_a_run_that_is_shorter_than_a_column_is_marked_as_well() -> None:
    runs = [(NOON + HOUR, NOON + HOUR + timedelta(minutes=1)), (NOON + 3 * HOUR, NOON + 4 * HOUR)]

    assert " ^ ^" == marks(NOON, NOON + 6 * HOUR, runs, 80, 6)
    assert "^^" == marks(NOON, NOON + 6 * HOUR, runs, 3, 6)


def test_a_check_may_go_by_percentile_or_by_forecast(aegis: Aegis, deployment: PlanningDeployment) -> None:
    with deployment.client() as client:
        client.carbon.check("GB", percentile=20)
        client.carbon.check("GB", duration=HOUR, deadline=NOON, min_saving=0.25)
        with pytest.raises(UsageError, match="go with duration"):
            client.carbon.check("GB", min_saving=0.25)
    assert aegis("carbon", "check", "GB", "--duration", "2h", "--within", "9h") == 0
    by_percentile, by_forecast, by_cli = deployment.carbon.checks

    assert (20, False) == (by_percentile.percentile, by_percentile.HasField("forecast"))
    assert (3600, 0.25) == (by_forecast.forecast.duration.seconds, by_forecast.forecast.min_saving)
    assert NOON == by_forecast.forecast.deadline.ToDatetime(tzinfo=UTC)
    assert (7200, False) == (by_cli.forecast.duration.seconds, by_cli.forecast.HasField("min_saving"))
