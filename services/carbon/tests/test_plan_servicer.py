"""PlanService over real mutual TLS: the contract that a caller sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis.carbon.v1 import plan_service_pb2_grpc as pb_grpc
from aegis_carbon.main import running
from aegis_carbon.settings import Settings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_common.rpc.errors import details_of, from_status
from aegis_common.testing.pki import Mesh

HOUR = timedelta(hours=1)
DAY = "zones/demo-day"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
async def plans(
    mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[pb_grpc.PlanServiceAsyncStub]:
    uk_api.default = Answer(None, 400)
    kwargs = {**mesh.service_kwargs("carbon"), "audit_dir": tmp_path}
    settings = Settings(api_url=uk_api.url, drain=timedelta(0), **kwargs)
    async with (
        running(settings, clock=clock) as server,
        mesh.channel(server.port, "carbon", account="agent") as channel,
    ):
        yield pb_grpc.PlanServiceStub(channel)


def span(**by: float) -> Duration:
    result = Duration()
    result.FromTimedelta(timedelta(**by))
    return result


def at(clock: ManualClock, **by: float) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(clock.now + timedelta(**by))
    return result


async def failure(call: Any) -> tuple[grpc.StatusCode, str, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    found = details_of(caught.value)
    return caught.value.code(), found.reason, found.message, dict(found.metadata)


async def test_a_forecast_has_slots_without_a_gap_and_says_where_they_come_from(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    found = await plans.GetForecast(pb.GetForecastRequest(zone=DAY, horizon=span(hours=6)))

    assert (DAY, 13) == (found.zone, len(found.slots))
    assert found.slots[0].start_time.ToDatetime() <= clock.now.replace(tzinfo=None)
    for before, slot in zip(found.slots, found.slots[1:], strict=False):
        assert before.end_time == slot.start_time
    assert all(slot.low_g_per_kwh <= slot.g_per_kwh <= slot.high_g_per_kwh for slot in found.slots)
    assert ["aegis"] == [part.source for part in found.parts]
    assert found.slots[-1].end_time == found.parts[-1].end_time


async def test_the_last_day_comes_along_where_it_is_asked_for(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    without = await plans.GetForecast(pb.GetForecastRequest(zone=DAY))
    found = await plans.GetForecast(pb.GetForecastRequest(zone=DAY, with_past=True))

    assert [] == list(without.past_slots)
    assert "replay" == found.past_source
    assert 48 <= len(found.past_slots) <= 49
    ends = [slot.end_time.ToDatetime() for slot in found.past_slots]
    assert sorted(ends) == ends
    assert ends[-1] <= clock.now.replace(tzinfo=None)
    assert found.past_slots[0].start_time.ToDatetime() <= clock.now.replace(tzinfo=None) - timedelta(days=1)


async def test_no_call_takes_another_zone_for_one_that_it_does_not_know(
    plans: pb_grpc.PlanServiceAsyncStub,
) -> None:
    job = pb.PlannedJob(zones=["zones/demo-dya"], duration=span(hours=1))
    for call in (
        plans.GetForecast(pb.GetForecastRequest(zone="zones/demo-dya")),
        plans.GetForecast(pb.GetForecastRequest(zone="zones/demo-dya", with_past=True)),
        plans.PlanWindow(pb.PlanWindowRequest(job=job)),
    ):
        code, reason, _, metadata = await failure(call)

        assert (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ZONE") == (code, reason)
        assert "demo-day" in metadata["near_matches"].split(",")


async def test_the_default_zone_has_a_forecast_of_two_days(plans: pb_grpc.PlanServiceAsyncStub) -> None:
    found = await plans.GetForecast(pb.GetForecastRequest(zone="zones/demo-clean"))

    assert 97 == len(found.slots)


async def test_a_plan_keeps_its_deadline_and_tells_what_it_saves(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    job = pb.PlannedJob(zones=[DAY], duration=span(hours=2), deadline=at(clock, hours=20))
    found = (await plans.PlanWindow(pb.PlanWindowRequest(job=job))).plan

    assert DAY == found.zone
    assert found.spans[0].end_time.ToDatetime() - found.spans[0].start_time.ToDatetime() == 2 * HOUR
    assert found.spans[0].end_time.ToDatetime() <= found.deadline.ToDatetime()
    assert found.deadline.ToDatetime() - found.latest_start_time.ToDatetime() == 2 * HOUR
    assert found.saving == pytest.approx(1 - found.g_per_kwh / found.now_g_per_kwh)
    assert found.saving > 0
    assert found.saving_low <= found.saving_high


async def test_a_job_that_may_stop_and_one_with_a_choice_of_zones(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    split = pb.PlannedJob(
        zones=[DAY],
        duration=span(hours=9),
        deadline=at(clock, hours=40),
        interruption=pb.Interruption(min_chunk=span(hours=1), max_interruptions=2),
    )
    free = pb.PlannedJob(zones=["zones/demo-dirty", "zones/demo-clean"], duration=span(hours=1))

    stops = (await plans.PlanWindow(pb.PlanWindowRequest(job=split))).plan
    moved = (await plans.PlanWindow(pb.PlanWindowRequest(job=free))).plan

    assert 2 <= len(stops.spans) <= 3
    assert "zones/demo-clean" == moved.zone
    assert moved.saving > 0.8
    assert moved.deadline.ToDatetime() == clock.now.replace(tzinfo=None) + 25 * HOUR


async def test_power_weighs_what_each_hour_emits(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    power = [pb.PowerStep(duration=span(hours=1), kw=kw) for kw in (1, 9)]
    job = pb.PlannedJob(zones=[DAY], duration=span(hours=2), deadline=at(clock, hours=2), power=power)
    found = (await plans.PlanWindow(pb.PlanWindowRequest(job=job))).plan
    even = pb.PlannedJob(zones=[DAY], duration=span(hours=2), deadline=at(clock, hours=2))
    other = (await plans.PlanWindow(pb.PlanWindowRequest(job=even))).plan

    assert other.spans == found.spans
    assert other.g_per_kwh != pytest.approx(found.g_per_kwh, rel=1e-3)


async def test_an_infeasible_job_is_told_by_when_it_could_end(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    job = pb.PlannedJob(zones=[DAY], duration=span(hours=2), deadline=at(clock, hours=1))
    code, reason, message, metadata = await failure(plans.PlanWindow(pb.PlanWindowRequest(job=job)))

    assert (grpc.StatusCode.FAILED_PRECONDITION, "INFEASIBLE_JOB") == (code, reason)
    assert (clock.now + 2 * HOUR).isoformat() == metadata["earliest_finish"]
    assert "cannot end by" in message


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"zones": ["zones/demo-dya"]}, grpc.StatusCode.NOT_FOUND, "demo-day"),
        ({"zones": ["zones/GB"]}, grpc.StatusCode.UNAVAILABLE, "neither forecast nor a day of history"),
        ({"duration": Duration()}, grpc.StatusCode.INVALID_ARGUMENT, "duration"),
        ({"duration": span(days=6), "max_wait": span(days=3)}, grpc.StatusCode.INVALID_ARGUMENT, "deadline"),
        ({"deadline": Timestamp(seconds=1 << 60)}, grpc.StatusCode.INVALID_ARGUMENT, "deadline"),
        ({"power": [pb.PowerStep(duration=span(hours=2), kw=1)]}, grpc.StatusCode.INVALID_ARGUMENT, "add up"),
        ({"power": [pb.PowerStep(duration=span(hours=1))]}, grpc.StatusCode.INVALID_ARGUMENT, "kw"),
    ],
)
async def test_what_cannot_be_planned_is_refused_with_the_reason(
    plans: pb_grpc.PlanServiceAsyncStub, change: dict[str, Any], code: grpc.StatusCode, told: str
) -> None:
    job = pb.PlannedJob(**{"zones": [DAY], "duration": span(hours=1), **change})
    got, _, message, metadata = await failure(plans.PlanWindow(pb.PlanWindowRequest(job=job)))

    assert code == got
    assert told in message + str(metadata)


async def test_a_horizon_beyond_the_reach_is_refused(plans: pb_grpc.PlanServiceAsyncStub) -> None:
    code, *_ = await failure(plans.GetForecast(pb.GetForecastRequest(zone=DAY, horizon=span(days=8))))

    assert grpc.StatusCode.INVALID_ARGUMENT == code


async def test_in_a_batch_one_failure_harms_no_other(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    good = pb.PlannedJob(zones=[DAY], duration=span(hours=1), deadline=at(clock, hours=9))
    jobs = [
        good,
        pb.PlannedJob(zones=["zones/nowhere"], duration=span(hours=1)),
        pb.PlannedJob(zones=["zones/GB"], duration=span(hours=1)),
        pb.PlannedJob(zones=[DAY], duration=span(hours=3), deadline=at(clock, hours=1)),
        good,
    ]
    found = (await plans.BatchPlanWindows(pb.BatchPlanWindowsRequest(jobs=jobs))).outcomes

    alone = (await plans.PlanWindow(pb.PlanWindowRequest(job=good))).plan
    assert [alone, alone] == [found[0].plan, found[4].plan]
    reasons = [from_status(outcome.error).reason for outcome in found[1:4]]
    assert ["UNKNOWN_ZONE", "NO_INTENSITY_DATA", "INFEASIBLE_JOB"] == reasons


async def test_thousands_of_jobs_are_one_call(
    plans: pb_grpc.PlanServiceAsyncStub, clock: ManualClock
) -> None:
    jobs = [
        pb.PlannedJob(zones=[DAY], duration=span(minutes=20 + number % 300), deadline=at(clock, hours=30))
        for number in range(5000)
    ]
    found = await plans.BatchPlanWindows(pb.BatchPlanWindowsRequest(jobs=jobs))

    assert 5000 == len(found.outcomes)
    assert all(outcome.HasField("plan") for outcome in found.outcomes)
    code, *_ = await failure(plans.BatchPlanWindows(pb.BatchPlanWindowsRequest(jobs=[*jobs, jobs[0]])))
    assert grpc.StatusCode.INVALID_ARGUMENT == code
