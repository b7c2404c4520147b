"""Which zone a place lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis_client.core.operation import Operation, method
from aegis_client.core.values import enum_name
from aegis_client.errors import UsageError

RESOLVE_ZONE: Final = method(pb, "CarbonService", "ResolveZone", pb.ResolveZoneResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedZone:
    """A zone of the deployment that a place lies in.

    Attributes:
        zone: `zones/{zone}`.
        providers: Providers that cover it, in order of preference.
        quality: `EXACT`; `COUNTRY` where it is that of the whole country; `NEAREST` where it is that of a
            known place nearby, and a border may lie in between.
        source: `table` for the service's table of places, else the provider that was asked.
        table_version: Date of the table; empty where a provider was asked.
        grid_zone: What the source calls it, for example `US-CAL-CISO`.
        near: The known place nearby; empty unless `NEAREST`.
        distance_km: How far that is away; None unless `NEAREST`.
    """

    zone: str
    display_name: str
    providers: tuple[str, ...]
    quality: str
    source: str
    table_version: str
    grid_zone: str
    near: str
    distance_km: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneResolution:
    """The zones of a place.

    Attributes:
        place: As it was understood, for example `aws/eu-central-1 (Frankfurt, DE)`.
        zones: At least one, the best first.
    """

    place: str
    zones: tuple[ResolvedZone, ...]

    @property
    def zone(self) -> str:
        """The best zone, for the other calls."""
        return self.zones[0].zone


def resolve_operation(
    *,
    cloud_region: str = "",
    country: str = "",
    postcode: str = "",
    location: tuple[float, float] | None = None,
    topology_label: str = "",
    timeout: float | None = None,
) -> Operation[ZoneResolution]:
    """Return the zones that a place lies in; name one place.

    Args:
        cloud_region: `aws/eu-central-1`, `azure/westeurope` or `gcp/europe-west3`, or the id alone.
        country: ISO 3166-1 code of two or three letters.
        postcode: Of the United Kingdom, whole or its first half.
        location: Latitude and longitude, in degrees.
        topology_label: Value of the label `topology.kubernetes.io/region` or `.../zone` of a node.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_PLACE`, or `UNKNOWN_ZONE` where no provider covers it; the metadata has
            `near_matches` and `could_cover`.
        InvalidArgument: The place has a wrong form.
        UsageError: No place is named, or several.
    """
    given = {
        "cloud_region": cloud_region,
        "country": country,
        "postcode": postcode,
        "location": location,
        "topology_label": topology_label,
    }
    named = [name for name, value in given.items() if value]
    if len(named) != 1:
        raise UsageError(f"name one place, not {len(named)}: {', '.join(given)}")
    request = pb.ResolveZoneRequest()
    if location is not None:
        request.location.latitude, request.location.longitude = location
    else:
        setattr(request, named[0], given[named[0]])
    return Operation(RESOLVE_ZONE, request, _read, timeout)


def _read(answer: pb.ResolveZoneResponse) -> ZoneResolution:
    return ZoneResolution(place=answer.place, zones=tuple(_read_zone(found) for found in answer.zones))


def _read_zone(found: pb.ResolvedZone) -> ResolvedZone:
    return ResolvedZone(
        zone=found.zone,
        display_name=found.display_name,
        providers=tuple(found.providers),
        quality=enum_name(pb.ZoneQuality, found.quality),
        source=found.source,
        table_version=found.table_version,
        grid_zone=found.grid_zone,
        near=found.near,
        distance_km=found.distance_km if found.HasField("distance_km") else None,
    )
