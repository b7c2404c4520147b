"""aegis.carbon.v1.CarbonService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import grpc.aio

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_carbon.adapters.convert import QUALITIES, SIGNALS, ZONES, moment, time_to_work
from aegis_carbon.domain.advisor import CarbonAdvisor
from aegis_carbon.domain.catalog import Zone
from aegis_carbon.domain.intensity import Intensity
from aegis_carbon.domain.places import Point
from aegis_carbon.domain.resolving import Resolution, ResolvedZone, ZoneQuality, ZoneResolver
from aegis_carbon.domain.rules import DEFAULT_MIN_SAVING, ForecastRule, PercentileRule, Rule, ThresholdRule
from aegis_carbon.domain.schedule import Decision, OnMissing, Reason, Verdict, Window
from aegis_common.clock import Clock
from aegis_common.errors import InvalidArgument
from aegis_common.paging import page
from aegis_common.rpc.times import duration, timestamp

SERVICE: Final = pb.DESCRIPTOR.services_by_name["CarbonService"].full_name

_ON_MISSING: Final = {
    pb.ON_MISSING_UNSPECIFIED: OnMissing.RUN_NOW,
    pb.ON_MISSING_RUN_NOW: OnMissing.RUN_NOW,
    pb.ON_MISSING_WAIT: OnMissing.WAIT,
}
_VERDICTS: Final = {Verdict.RUN_NOW: pb.DECISION_RUN_NOW, Verdict.WAIT: pb.DECISION_WAIT}
_REASONS: Final = {
    Reason.BELOW_THRESHOLD: pb.REASON_BELOW_THRESHOLD,
    Reason.ABOVE_THRESHOLD: pb.REASON_ABOVE_THRESHOLD,
    Reason.NO_DATA: pb.REASON_NO_DATA,
    Reason.BELOW_PERCENTILE: pb.REASON_BELOW_PERCENTILE,
    Reason.ABOVE_PERCENTILE: pb.REASON_ABOVE_PERCENTILE,
    Reason.NO_BETTER_WINDOW: pb.REASON_NO_BETTER_WINDOW,
    Reason.BETTER_WINDOW: pb.REASON_BETTER_WINDOW,
    Reason.LATEST_START: pb.REASON_LATEST_START,
}
_ZONE_QUALITIES: Final = {
    ZoneQuality.EXACT: pb.ZONE_QUALITY_EXACT,
    ZoneQuality.COUNTRY: pb.ZONE_QUALITY_COUNTRY,
    ZoneQuality.NEAREST: pb.ZONE_QUALITY_NEAREST,
}

Context = grpc.aio.ServicerContext[Any, Any]


class CarbonServicer(pb_grpc.CarbonServiceServicer):
    """Translate only: no decisions, no I/O, no status codes."""

    def __init__(self, advisor: CarbonAdvisor, resolver: ZoneResolver, *, clock: Clock) -> None:
        self._advisor = advisor
        self._resolver = resolver
        self._clock = clock

    async def ListZones(self, request: pb.ListZonesRequest, context: Context) -> pb.ListZonesResponse:
        zones, token = page(
            self._advisor.zones(),
            key=lambda zone: zone.id,
            size=request.page_size,
            token=request.page_token,
            query=f"{SERVICE}/ListZones",
        )
        return pb.ListZonesResponse(zones=map(_zone, zones), next_page_token=token)

    async def ResolveZone(self, request: pb.ResolveZoneRequest, context: Context) -> pb.ResolveZoneResponse:
        found = await self._resolved(request)
        return pb.ResolveZoneResponse(zones=map(_resolved_zone, found.zones), place=found.place)

    async def _resolved(self, request: pb.ResolveZoneRequest) -> Resolution:
        within = time_to_work()
        match request.WhichOneof("place"):
            case "cloud_region":
                return await self._resolver.cloud_region(request.cloud_region, within=within)
            case "country":
                return await self._resolver.country(request.country)
            case "postcode":
                return await self._resolver.postcode(request.postcode, within=within)
            case "topology_label":
                return await self._resolver.topology_label(request.topology_label, within=within)
            case _:
                point = Point(request.location.latitude, request.location.longitude)
                return await self._resolver.point(point, within=within)

    async def GetIntensity(
        self, request: pb.GetIntensityRequest, context: Context
    ) -> pb.GetIntensityResponse:
        found = await self._advisor.intensity(request.zone.removeprefix(ZONES), within=time_to_work())
        return pb.GetIntensityResponse(intensity=_intensity(found, self._clock()))

    async def CheckSchedule(
        self, request: pb.CheckScheduleRequest, context: Context
    ) -> pb.CheckScheduleResponse:
        decision = await self._advisor.check(
            request.zone.removeprefix(ZONES),
            within=time_to_work(),
            rule=_rule(request),
            on_missing=_ON_MISSING[request.on_missing],
        )
        return _response(decision)


def _rule(request: pb.CheckScheduleRequest) -> Rule:
    given = [name for name in ("max_intensity_g_per_kwh", "percentile", "forecast") if request.HasField(name)]
    if len(given) > 1:
        told = " and ".join(given)
        raise InvalidArgument(f"{told} are different rules; give one", violations=dict.fromkeys(given, told))
    if request.HasField("percentile"):
        return PercentileRule(request.percentile)
    if request.HasField("forecast"):
        return _forecast_rule(request.forecast)
    limited = request.HasField("max_intensity_g_per_kwh")
    return ThresholdRule(request.max_intensity_g_per_kwh if limited else None)


def _forecast_rule(rule: pb.ForecastRule) -> ForecastRule:
    return ForecastRule(
        duration=rule.duration.ToTimedelta(),
        deadline=moment(rule.deadline, "forecast.deadline") if rule.HasField("deadline") else None,
        max_wait=rule.max_wait.ToTimedelta() if rule.HasField("max_wait") else None,
        min_saving=rule.min_saving if rule.HasField("min_saving") else DEFAULT_MIN_SAVING,
    )


def _zone(zone: Zone) -> pb.Zone:
    return pb.Zone(
        name=ZONES + zone.id,
        display_name=zone.display_name,
        providers=zone.providers,
        threshold_g_per_kwh=zone.threshold_g_per_kwh,
        default=zone.default,
        aliases=zone.aliases,
    )


def _resolved_zone(found: ResolvedZone) -> pb.ResolvedZone:
    return pb.ResolvedZone(
        zone=ZONES + found.zone.id,
        display_name=found.zone.display_name,
        providers=found.zone.providers,
        quality=_ZONE_QUALITIES[found.quality],
        source=found.source,
        table_version=found.table_version,
        grid_zone=found.grid_zone,
        near=found.near,
        distance_km=found.distance_km,
    )


def _intensity(intensity: Intensity, now: datetime) -> pb.Intensity:
    return pb.Intensity(
        zone=ZONES + intensity.zone,
        g_per_kwh=intensity.g_per_kwh,
        start_time=timestamp(intensity.start),
        end_time=timestamp(intensity.end),
        signal=SIGNALS[intensity.signal],
        quality=QUALITIES[intensity.quality],
        source=intensity.source,
        fetch_time=timestamp(intensity.fetched_at),
        age=duration(intensity.age(now)),
    )


def _response(decision: Decision) -> pb.CheckScheduleResponse:
    return pb.CheckScheduleResponse(
        decision=_VERDICTS[decision.verdict],
        reason=_REASONS[decision.reason],
        intensity=_intensity(decision.intensity, decision.decided_at) if decision.intensity else None,
        threshold_g_per_kwh=decision.threshold_g_per_kwh,
        retry_after=duration(decision.retry_after) if decision.retry_after else None,
        next_window=_window(decision.window) if decision.window else None,
    )


def _window(window: Window) -> pb.ScheduleWindow:
    return pb.ScheduleWindow(
        start_time=timestamp(window.start), end_time=timestamp(window.end), g_per_kwh=window.g_per_kwh
    )
