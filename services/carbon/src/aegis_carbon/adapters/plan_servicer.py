"""aegis.carbon.v1.PlanService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any, Final

import grpc.aio

from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis.carbon.v1 import plan_service_pb2_grpc as pb_grpc
from aegis_carbon.adapters.convert import QUALITIES, SIGNALS, ZONES, time_to_work
from aegis_carbon.adapters.plan_convert import job_request, plan_message
from aegis_carbon.domain.outlook import Outlook, OutlookPart
from aegis_carbon.domain.planning import Planned, Planning
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
        found = await self._planning.plan(job_request(request.job), within=time_to_work())
        return pb.PlanWindowResponse(plan=_planned(found))

    async def BatchPlanWindows(
        self, request: pb.BatchPlanWindowsRequest, context: Context
    ) -> pb.BatchPlanWindowsResponse:
        jobs = [job_request(job) for job in request.jobs]
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


def _planned(found: Planned) -> pb.Plan:
    return plan_message(
        found.plan, found.plan.spans, latest_start=found.job.latest_start, deadline=found.job.deadline
    )


def _outcome(found: Planned | AegisError) -> pb.PlanOutcome:
    if isinstance(found, AegisError):
        return pb.PlanOutcome(error=to_status(found))
    return pb.PlanOutcome(plan=_planned(found))
