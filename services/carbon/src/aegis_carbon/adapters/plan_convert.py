"""Between protobuf and work that can wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis_carbon.adapters.convert import ZONES, moment
from aegis_carbon.domain.job import Interruption, Plan, PowerStep, Span
from aegis_carbon.domain.planning import JobRequest
from aegis_common.rpc.times import duration, timestamp


def job_request(job: pb.PlannedJob) -> JobRequest:
    """Return the work as a caller describes it.

    Raises:
        InvalidArgument: A time is none.
    """
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


def interruption_message(found: Interruption) -> pb.Interruption:
    return pb.Interruption(
        min_chunk=duration(found.min_chunk),
        max_interruptions=found.max_interruptions,
        resume_overhead=duration(found.resume_overhead),
    )


def plan_message(plan: Plan, spans: Sequence[Span], *, latest_start: datetime, deadline: datetime) -> pb.Plan:
    """Return a plan; *spans* are when the work that is left runs."""
    return pb.Plan(
        zone=ZONES + plan.zone,
        spans=[pb.PlanSpan(start_time=timestamp(span.start), end_time=timestamp(span.end)) for span in spans],
        g_per_kwh=plan.g_per_kwh,
        now_g_per_kwh=plan.now_g_per_kwh,
        saving=plan.saving,
        saving_low=plan.saving_low,
        saving_high=plan.saving_high,
        latest_start_time=timestamp(latest_start),
        deadline=timestamp(deadline),
    )
