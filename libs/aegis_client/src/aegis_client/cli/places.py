"""The options that name a place instead of a zone, the same for every command that takes a zone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_client.carbon_places import ZoneResolution
    from aegis_client.client import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place as it was typed; all empty where none was named."""

    region: Annotated[
        str, typer.Option(metavar="CLOUD/ID", help="Instead of a zone: cloud region, aws/eu-central-1.")
    ] = ""
    country: Annotated[
        str, typer.Option(metavar="CODE", help="Instead of a zone: country by its ISO code.")
    ] = ""
    postcode: Annotated[
        str, typer.Option(metavar="CODE", help="Instead of a zone: UK postcode, or its first half.")
    ] = ""
    location: Annotated[
        str, typer.Option(metavar="LAT,LON", help="Instead of a zone: point on the earth, in degrees.")
    ] = ""
    topology_label: Annotated[
        str, typer.Option(metavar="VALUE", help="Instead of a zone: a node's topology.kubernetes.io label.")
    ] = ""

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def resolved(self, client: Client, zone: str = "") -> ZoneResolution | None:
        """Return the zones of the place; None where none was named.

        Raises:
            UsageError: There is a *zone* as well, or the point is none.
        """
        if not self:
            return None
        if zone:
            raise UsageError(f"zone {zone!r} and a place say the same; give one of them")
        return client.carbon.resolve_zone(
            cloud_region=self.region,
            country=self.country,
            postcode=self.postcode,
            location=_point(self.location) if self.location else None,
            topology_label=self.topology_label,
        )

    def zone(self, client: Client, zone: str = "") -> str:
        """Return the best zone of the place, or *zone* where none was named; say how sure a guess is."""
        found = self.resolved(client, zone)
        if found is None:
            return zone
        best = found.zones[0]
        if best.quality != "EXACT":
            typer.echo(f"aegis: {found.place} lies in {best.zone}, {sureness(found)}", err=True)
        return best.zone


def sureness(found: ZoneResolution) -> str:
    """Return in words how well the best zone fits the place."""
    best = found.zones[0]
    if best.quality == "NEAREST":
        others = [f"{zone.zone} ({zone.distance_km or 0:.0f} km)" for zone in found.zones[1:]]
        more = f"; or {', '.join(others)}" if others else ""
        return f"nearest: {best.near} is {best.distance_km or 0:.0f} km away{more}"
    return f"{best.quality.lower()}, by {best.source} {best.table_version}".rstrip()


def with_place(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options of `Place`; it gets them as one argument `place`."""
    names = [field.name for field in fields(Place)]

    @functools.wraps(command)
    def placed(*args: Any, **told: Any) -> None:
        place = Place(**{name: told.pop(name) for name in names})
        command(*args, **told, place=place)

    signature = inspect.signature(command, eval_str=True)
    options = inspect.signature(Place, eval_str=True).parameters.values()
    kept = [parameter for name, parameter in signature.parameters.items() if name != "place"]
    keyword = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    placed.__signature__ = signature.replace(parameters=[*kept, *keyword])  # type: ignore[attr-defined]  # typer reads it
    return placed


def _point(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--location {text!r} is not LAT,LON in degrees; for example 51.5,-0.13") from None
    return latitude, longitude
