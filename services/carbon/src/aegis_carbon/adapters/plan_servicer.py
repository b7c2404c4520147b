"""aegis.carbon.v1.PlanService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any, Final

import grpc.aio

from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis.carbon.v1 import plan_service_pb2_grpc as pb_grpc
from aegis_carbon.adapters.convert import QUALITIES, SIGNALS, ZONES, moment, time_to_work
from aegis_carbon.domain.job import Interruption, PowerStep
from aegis_carbon.domain.outlook import Outlook, OutlookPart
from aegis_carbon.domain.planning import JobRequest, Planned, Planning
from aegis_carbon.domain.timeseries import IntensitySeries
from aegis_common.errors import AegisError
from aegis_common.rpc.errors import to_status
from aegis_common.rpc.times import timestamp

DEFAULT_ZONE: Final = "-"

Context = grpc.aio.ServicerContext[Any, Any]


class PlanServicer(pb_grpc.PlanServiceServicer):
    """Translate only: no decisions, no I/O, no status codes."""

    def __init__(self, planning: Planning) -> None:
        self._planning = planning

    async def GetForecast(self, request: pb.GetForecastRequest, context: Context) -> pb.GetForecastResponse:
        zone = request.zone.removeprefix(ZONES)
        horizon = request.horizon.ToTimedelta() if request.HasField("horizon") else None
        zone, within = "" if zone == DEFAULT_ZONE else zone, time_to_work()
        found, past = await asyncio.gather(
            self._planning.forecast(zone, horizon=horizon, within=within),
            self._planning.last_day(zone, within=within) if request.with_past else _nothing(),
        )
        answer = _forecast(found)
        if past is not None:
            answer.past_slots.extend(_past_slots(past.series))
            answer.past_source = past.source
        return answer

    async def PlanWindow(self, request: pb.PlanWindowRequest, context: Context) -> pb.PlanWindowResponse:
        found = await self._planning.plan(_job(request.job), within=time_to_work())
        return pb.PlanWindowResponse(plan=_plan(found))

    async def BatchPlanWindows(
        self, request: pb.BatchPlanWindowsRequest, context: Context
    ) -> pb.BatchPlanWindowsResponse:
        jobs = [_job(job) for job in request.jobs]
        found = await self._planning.plans(jobs, within=time_to_work())
        return pb.BatchPlanWindowsResponse(outcomes=map(_outcome, found))


async def _nothing() -> None:
    return None


def _past_slots(series: IntensitySeries) -> Iterator[pb.PastSlot]:
    for number, value in enumerate(series.values.tolist()):
        if not math.isnan(value):
            start = series.start + number * series.step
            yield pb.PastSlot(
                start_time=timestamp(start), end_time=timestamp(start + series.step), g_per_kwh=value
            )


def _job(job: pb.PlannedJob) -> JobRequest:
    return JobRequest(
        zones=tuple(zone.removeprefix(ZONES) for zone in job.zones),
        duration=job.duration.ToTimedelta(),
        deadline=moment(job.deadline, "deadline") if job.HasField("deadline") else None,
        max_wait=job.max_wait.ToTimedelta() if job.HasField("max_wait") else None,
        earliest=(
            moment(job.earliest_start_time, "earliest_start_time")
            if job.HasField("earliest_start_time")
            else None
        ),
        interruption=_interruption(job.interruption) if job.HasField("interruption") else None,
        power=tuple(PowerStep(part.duration.ToTimedelta(), part.kw) for part in job.power),
    )


def _interruption(interruption: pb.Interruption) -> Interruption:
    limited = interruption.HasField("max_interruptions")
    return Interruption(
        min_chunk=interruption.min_chunk.ToTimedelta(),
        max_interruptions=interruption.max_interruptions if limited else None,
        resume_overhead=interruption.resume_overhead.ToTimedelta(),
    )


def _forecast(outlook: Outlook) -> pb.GetForecastResponse:
    series = outlook.series
    rows = zip(series.values.tolist(), outlook.low.tolist(), outlook.high.tolist(), strict=True)
    return pb.GetForecastResponse(
        zone=ZONES + outlook.zone,
        signal=SIGNALS[outlook.signal],
        slots=[
            pb.ForecastSlot(
                start_time=timestamp(series.start + number * series.step),
                end_time=timestamp(series.start + (number + 1) * series.step),
                g_per_kwh=value,
                low_g_per_kwh=low,
                high_g_per_kwh=high,
            )
            for number, (value, low, high) in enumerate(rows)
        ],
        parts=map(_part, outlook.parts),
    )


def _part(part: OutlookPart) -> pb.ForecastPart:
    return pb.ForecastPart(
        start_time=timestamp(part.start),
        end_time=timestamp(part.end),
        source=part.source,
        quality=QUALITIES[part.quality],
        issue_time=timestamp(part.issued_at),
        band_source=part.band_from,
    )


def _plan(planned: Planned) -> pb.Plan:
    plan = planned.plan
    return pb.Plan(
        zone=ZONES + plan.zone,
        spans=[
            pb.PlanSpan(start_time=timestamp(span.start), end_time=timestamp(span.end)) for span in plan.spans
        ],
        g_per_kwh=plan.g_per_kwh,
        now_g_per_kwh=plan.now_g_per_kwh,
        saving=plan.saving,
        saving_low=plan.saving_low,
        saving_high=plan.saving_high,
        latest_start_time=timestamp(planned.job.latest_start),
        deadline=timestamp(planned.job.deadline),
    )


def _outcome(found: Planned | AegisError) -> pb.PlanOutcome:
    if isinstance(found, AegisError):
        return pb.PlanOutcome(error=to_status(found))
    return pb.PlanOutcome(plan=_plan(found))
