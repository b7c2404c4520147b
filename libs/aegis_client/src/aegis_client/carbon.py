"""How clean the grid is, whether work should start now, and when it should run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis_client.carbon_ledger import record_usage_operation, report_listing, usage_operation
from aegis_client.carbon_places import resolve_operation
from aegis_client.carbon_plans import forecast_operation, plan_operation, plans_operation
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import duration as to_duration
from aegis_client.core.values import enum_name, enum_value, moment, optional_resource, resource, span, stamp
from aegis_client.errors import UsageError

LIST_ZONES: Final = method(pb, "CarbonService", "ListZones", pb.ListZonesResponse)
GET_INTENSITY: Final = method(pb, "CarbonService", "GetIntensity", pb.GetIntensityResponse)
CHECK_SCHEDULE: Final = method(pb, "CarbonService", "CheckSchedule", pb.CheckScheduleResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One grid area.

    Attributes:
        name: `zones/{zone}`.
        providers: Providers that cover it, in order of preference.
        threshold_g_per_kwh: Highest intensity at which work starts when a call names none.
        default: True for the zone that a call without a zone gets.
        aliases: Other ids that it answers to: what its providers call it.
    """

    name: str
    display_name: str
    providers: tuple[str, ...]
    threshold_g_per_kwh: float
    default: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """The carbon intensity of one zone in one half-open slot of time.

    Attributes:
        g_per_kwh: Grams of CO2-equivalent per kWh.
        signal: `AVERAGE` or `MARGINAL`.
        quality: `ACTUAL`, `FORECAST`, `STALE` or `SYNTHETIC`.
        source: Provider of the value.
        age: Time since the value was fetched.
    """

    zone: str
    g_per_kwh: float
    start_time: datetime | None
    end_time: datetime | None
    signal: str
    quality: str
    source: str
    fetch_time: datetime | None
    age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleWindow:
    """A cleaner time to come.

    Attributes:
        g_per_kwh: Expected mean intensity, in grams of CO2-equivalent per kWh.
    """

    start_time: datetime | None
    end_time: datetime | None
    g_per_kwh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDecision:
    """Whether to start; true in a condition when work should start now.

    Attributes:
        decision: `RUN_NOW` or `WAIT`.
        reason: `BELOW_THRESHOLD`, `ABOVE_THRESHOLD`, `BELOW_PERCENTILE`, `ABOVE_PERCENTILE`, `BETTER_WINDOW`,
            `NO_BETTER_WINDOW`, `LATEST_START` or `NO_DATA`.
        intensity: The value that it rests on, or None when there was none.
        threshold_g_per_kwh: The threshold used; that of the percentile, or 0 for a decision by forecast.
        retry_after: When to ask again; None for `RUN_NOW`.
        next_window: The next good time, where a forecast knows of one; None for `RUN_NOW`.
    """

    decision: str
    reason: str
    intensity: Intensity | None
    threshold_g_per_kwh: float
    retry_after: timedelta | None
    next_window: ScheduleWindow | None = None

    def __bool__(self) -> bool:
        return self.decision == "RUN_NOW"


def _zones(*, page_size: int = 0) -> Listing[Zone]:
    """Iterate over the zones that some provider covers, ordered by name."""

    def fetch(token: str) -> Operation[Page[Zone]]:
        request = pb.ListZonesRequest(page_size=page_size, page_token=token)
        return Operation(LIST_ZONES, request, _read_zones)

    return Listing(fetch)


def _intensity(zone: str, *, timeout: float | None = None) -> Operation[Intensity]:
    """Return the current intensity of a zone.

    Args:
        zone: `GB` or `zones/GB`.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_ZONE`.
        Unavailable: Reason `NO_INTENSITY_DATA`: missing data is never 0.
    """
    request = pb.GetIntensityRequest(zone=resource("zones", zone))
    return Operation(GET_INTENSITY, request, lambda answer: _read_intensity(answer.intensity), timeout)


def check_operation(
    zone: str = "",
    *,
    max_intensity: float | None = None,
    percentile: float | None = None,
    duration: float | timedelta | None = None,
    deadline: datetime | None = None,
    max_wait: float | timedelta | None = None,
    min_saving: float | None = None,
    on_missing: str = "run_now",
    timeout: float | None = None,
) -> Operation[ScheduleDecision]:
    """Decide whether work should start now: by a threshold, a percentile or, with *duration*, by forecast.

    Args:
        zone: `GB` or `zones/GB`; if empty, the deployment's default zone.
        max_intensity: Highest intensity at which to start, in gCO2e/kWh; None means the zone's own.
        percentile: Start at or below this percentile of the zone's last seven days; above 0, at most 100.
        duration: Time that the work runs; it waits if a window that ends in time is cleaner by enough.
        deadline: Moment by which it has ended, with a time zone; goes with *duration*.
        max_wait: Longest time that its start may wait, where there is no deadline; None means a day.
        min_saving: Least share of its emissions for which it waits, 0 to 1; None means 0.05.
        on_missing: What to decide without any data: `run_now` or `wait`.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_ZONE`.
        InvalidArgument: More than one rule is given.
        UsageError: An argument of a decision by forecast is given without *duration*.
    """
    request = pb.CheckScheduleRequest(
        zone=optional_resource("zones", zone),
        max_intensity_g_per_kwh=max_intensity,
        percentile=percentile,
        forecast=_forecast_rule(duration, deadline, max_wait, min_saving),
        on_missing=pb.OnMissing.ValueType(enum_value(pb.OnMissing, on_missing, "on_missing")),
    )
    return Operation(CHECK_SCHEDULE, request, _read_decision, timeout)


def _forecast_rule(
    duration: float | timedelta | None,
    deadline: datetime | None,
    max_wait: float | timedelta | None,
    min_saving: float | None,
) -> pb.ForecastRule | None:
    if duration is not None:
        return pb.ForecastRule(
            duration=to_duration(duration),
            deadline=stamp(deadline, "deadline"),
            max_wait=to_duration(max_wait),
            min_saving=min_saving,
        )
    if any(value is not None for value in (deadline, max_wait, min_saving)):
        raise UsageError("deadline, max_wait and min_saving go with duration")
    return None


def _read_zones(answer: pb.ListZonesResponse) -> Page[Zone]:
    return Page([_read_zone(zone) for zone in answer.zones], answer.next_page_token)


def _read_zone(zone: pb.Zone) -> Zone:
    return Zone(
        name=zone.name,
        display_name=zone.display_name,
        providers=tuple(zone.providers),
        threshold_g_per_kwh=zone.threshold_g_per_kwh,
        default=zone.default,
        aliases=tuple(zone.aliases),
    )


def _read_intensity(found: pb.Intensity) -> Intensity:
    return Intensity(
        zone=found.zone,
        g_per_kwh=found.g_per_kwh,
        start_time=moment(found, "start_time"),
        end_time=moment(found, "end_time"),
        signal=enum_name(pb.Signal, found.signal),
        quality=enum_name(pb.Quality, found.quality),
        source=found.source,
        fetch_time=moment(found, "fetch_time"),
        age=span(found, "age"),
    )


def _read_decision(answer: pb.CheckScheduleResponse) -> ScheduleDecision:
    return ScheduleDecision(
        decision=enum_name(pb.Decision, answer.decision),
        reason=enum_name(pb.Reason, answer.reason),
        intensity=_read_intensity(answer.intensity) if answer.HasField("intensity") else None,
        threshold_g_per_kwh=answer.threshold_g_per_kwh,
        retry_after=span(answer, "retry_after"),
        next_window=_read_window(answer.next_window) if answer.HasField("next_window") else None,
    )


def _read_window(window: pb.ScheduleWindow) -> ScheduleWindow:
    return ScheduleWindow(
        start_time=moment(window, "start_time"),
        end_time=moment(window, "end_time"),
        g_per_kwh=window.g_per_kwh,
    )


class CarbonSurface:
    zones = stream(_zones)
    resolve_zone = unary(resolve_operation)
    intensity = unary(_intensity)
    check = unary(check_operation)
    forecast = unary(forecast_operation)
    plan = unary(plan_operation)
    plans = unary(plans_operation)
    record_usage = unary(record_usage_operation)
    usage = unary(usage_operation)
    report = stream(report_listing)


class Carbon(CarbonSurface, SyncApi):
    """`Client.carbon`."""


class AsyncCarbon(CarbonSurface, AsyncApi):
    """`AsyncClient.carbon`."""
