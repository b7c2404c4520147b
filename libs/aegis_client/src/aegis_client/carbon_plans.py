"""Forecasts of carbon intensity, and plans that keep their deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis_client.core.operation import Operation, method
from aegis_client.core.status import status_error
from aegis_client.core.values import duration, enum_name, moment, resource, stamp
from aegis_client.errors import AegisApiError, UsageError

GET_FORECAST: Final = method(pb, "PlanService", "GetForecast", pb.GetForecastResponse)
PLAN_WINDOW: Final = method(pb, "PlanService", "PlanWindow", pb.PlanWindowResponse)
BATCH_PLAN_WINDOWS: Final = method(pb, "PlanService", "BatchPlanWindows", pb.BatchPlanWindowsResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastSlot:
    """Expected intensity in one half-open slot of time.

    Attributes:
        g_per_kwh: Grams of CO2-equivalent per kWh.
        low_g_per_kwh: Lower edge of the 80 % band.
        high_g_per_kwh: Upper edge.
    """

    start_time: datetime | None
    end_time: datetime | None
    g_per_kwh: float
    low_g_per_kwh: float
    high_g_per_kwh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PastSlot:
    """Measured intensity in one half-open slot of time.

    Attributes:
        g_per_kwh: Grams of CO2-equivalent per kWh.
    """

    start_time: datetime | None
    end_time: datetime | None
    g_per_kwh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastPart:
    """Slots of one source.

    Attributes:
        source: Provider of the values, or `aegis` for a forecast made from the zone's history.
        quality: `ACTUAL`, `FORECAST`, `STALE` or `SYNTHETIC`.
        issue_time: When they were given or made.
        band_source: Whose past errors the band rests on: the source, or `aegis`; empty where it is a guess.
    """

    start_time: datetime | None
    end_time: datetime | None
    source: str
    quality: str
    issue_time: datetime | None
    band_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is expected of a zone.

    Attributes:
        zone: `zones/{zone}`.
        signal: `AVERAGE` or `MARGINAL`.
        slots: In the order of time, without a gap, from the present one on.
        parts: Where the values come from.
        past_slots: What was measured in the day before, if asked for; what is not known is left out.
        past_source: Provider of those.
    """

    zone: str
    signal: str
    slots: tuple[ForecastSlot, ...]
    parts: tuple[ForecastPart, ...]
    past_slots: tuple[PastSlot, ...] = ()
    past_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """Work that can wait.

    Attributes:
        duration: Time that it runs, in seconds or as a timedelta; at most 7 days.
        zones: Zones in which it may run, its home first; nothing is planned elsewhere. Empty is the
            deployment's default zone.
        deadline: Moment by which it has ended, with a time zone; strict.
        max_wait: Longest time that its start may wait, where there is no deadline; if None, a day.
        earliest_start_time: First moment at which it may run, with a time zone; if None, now.
        interruptible: Whether it may be suspended and resumed.
        min_chunk: Shortest time between a start or resume and the next stop; goes with `interruptible`.
        max_interruptions: Most suspensions; None is any number.
        resume_overhead: Time that each resume costs before work goes on.
        power: Pairs of duration and kW, which add up to `duration`; empty is even power.
    """

    duration: float | timedelta
    zones: Sequence[str] = ()
    deadline: datetime | None = None
    max_wait: float | timedelta | None = None
    earliest_start_time: datetime | None = None
    interruptible: bool = False
    min_chunk: float | timedelta | None = None
    max_interruptions: int | None = None
    resume_overhead: float | timedelta | None = None
    power: Sequence[tuple[float | timedelta, float]] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpan:
    """A half-open stretch of time in which the job runs."""

    start_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When and where a job runs.

    Attributes:
        zone: `zones/{zone}`.
        spans: When it runs.
        g_per_kwh: Expected mean intensity over the run, weighted by power.
        now_g_per_kwh: The same for a run that starts at once in the home zone.
        saving: Expected saving against that, as a share of it; below 0 is worse.
        saving_low: Lower edge of the 80 % band of the saving, or None where the past is too short to tell.
        saving_high: Upper edge.
        latest_start_time: Whoever gets no word by then starts then, and still ends in time.
        deadline: The deadline that was kept.
    """

    zone: str
    spans: tuple[PlanSpan, ...]
    g_per_kwh: float
    now_g_per_kwh: float
    saving: float
    saving_low: float | None
    saving_high: float | None
    latest_start_time: datetime | None
    deadline: datetime | None


def forecast_operation(
    zone: str = "",
    *,
    horizon: float | timedelta | None = None,
    with_past: bool = False,
    timeout: float | None = None,
) -> Operation[Forecast]:
    """Return what is expected of a zone.

    Args:
        zone: `GB` or `zones/GB`; if empty, the deployment's default zone.
        horizon: How far to look ahead, in seconds or as a timedelta; at most 7 days. If None, 48 hours.
        with_past: Whether the values of the last day come along.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_ZONE`.
        Unavailable: Reason `NO_INTENSITY_DATA`: there is neither a forecast nor enough history.
    """
    request = pb.GetForecastRequest(
        zone=resource("zones", zone or "-"), horizon=duration(horizon), with_past=with_past
    )
    return Operation(GET_FORECAST, request, _read_forecast, timeout)


def plan_operation(job: PlannedJob, *, timeout: float | None = None) -> Operation[Plan]:
    """Return the cleanest plan for a job that ends by its deadline; nothing is reserved.

    Args:
        job: What is to be run.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_ZONE`.
        FailedPrecondition: Reason `INFEASIBLE_JOB`; the metadata has `earliest_finish`.
        Unavailable: Reason `NO_INTENSITY_DATA`.
        InvalidArgument: The job contradicts itself.
    """
    request = pb.PlanWindowRequest(job=to_job(job))
    return Operation(PLAN_WINDOW, request, lambda answer: read_plan(answer.plan), timeout)


def plans_operation(
    jobs: Sequence[PlannedJob], *, timeout: float | None = None
) -> Operation[tuple[Plan | AegisApiError, ...]]:
    """Return for each job its plan or the error that a call of its own would have raised.

    Args:
        jobs: 1 to 5000 jobs.
        timeout: Deadline of the call, in seconds.
    """
    request = pb.BatchPlanWindowsRequest(jobs=map(to_job, jobs))
    return Operation(BATCH_PLAN_WINDOWS, request, _read_outcomes, timeout)


def to_job(job: PlannedJob) -> pb.PlannedJob:
    return pb.PlannedJob(
        zones=[resource("zones", zone) for zone in job.zones],
        duration=duration(job.duration),
        deadline=stamp(job.deadline, "deadline"),
        max_wait=duration(job.max_wait),
        earliest_start_time=stamp(job.earliest_start_time, "earliest_start_time"),
        interruption=_interruption(job),
        power=[pb.PowerStep(duration=duration(length), kw=kw) for length, kw in job.power],
    )


def _interruption(job: PlannedJob) -> pb.Interruption | None:
    if job.interruptible:
        return pb.Interruption(
            min_chunk=duration(job.min_chunk),
            max_interruptions=job.max_interruptions,
            resume_overhead=duration(job.resume_overhead),
        )
    if any(value is not None for value in (job.min_chunk, job.max_interruptions, job.resume_overhead)):
        raise UsageError("min_chunk, max_interruptions and resume_overhead go with interruptible=True")
    return None


def _read_forecast(answer: pb.GetForecastResponse) -> Forecast:
    return Forecast(
        zone=answer.zone,
        signal=enum_name(carbon_pb.Signal, answer.signal),
        slots=tuple(
            ForecastSlot(
                start_time=moment(slot, "start_time"),
                end_time=moment(slot, "end_time"),
                g_per_kwh=slot.g_per_kwh,
                low_g_per_kwh=slot.low_g_per_kwh,
                high_g_per_kwh=slot.high_g_per_kwh,
            )
            for slot in answer.slots
        ),
        parts=tuple(
            ForecastPart(
                start_time=moment(part, "start_time"),
                end_time=moment(part, "end_time"),
                source=part.source,
                quality=enum_name(carbon_pb.Quality, part.quality),
                issue_time=moment(part, "issue_time"),
                band_source=part.band_source,
            )
            for part in answer.parts
        ),
        past_slots=tuple(
            PastSlot(
                start_time=moment(slot, "start_time"),
                end_time=moment(slot, "end_time"),
                g_per_kwh=slot.g_per_kwh,
            )
            for slot in answer.past_slots
        ),
        past_source=answer.past_source,
    )


def read_plan(plan: pb.Plan) -> Plan:
    return Plan(
        zone=plan.zone,
        spans=tuple(
            PlanSpan(start_time=moment(span, "start_time"), end_time=moment(span, "end_time"))
            for span in plan.spans
        ),
        g_per_kwh=plan.g_per_kwh,
        now_g_per_kwh=plan.now_g_per_kwh,
        saving=plan.saving,
        saving_low=plan.saving_low if plan.HasField("saving_low") else None,
        saving_high=plan.saving_high if plan.HasField("saving_high") else None,
        latest_start_time=moment(plan, "latest_start_time"),
        deadline=moment(plan, "deadline"),
    )


def _read_outcomes(answer: pb.BatchPlanWindowsResponse) -> tuple[Plan | AegisApiError, ...]:
    return tuple(
        status_error(outcome.error, "") if outcome.HasField("error") else read_plan(outcome.plan)
        for outcome in answer.outcomes
    )
