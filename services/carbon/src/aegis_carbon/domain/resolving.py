"""Finds the zones of this deployment that a place lies in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

from aegis_carbon.domain.asking import NO_DATA, Asking, Question
from aegis_carbon.domain.catalog import Zone, ZoneCatalog
from aegis_carbon.domain.errors import ambiguous_place, uncovered_place, unknown_place
from aegis_carbon.domain.places import (
    NEAREST_KM,
    CloudRegion,
    GridZone,
    PlaceTable,
    Point,
    Postcode,
    Spot,
)
from aegis_carbon.domain.providers import CacheKey, Topic, ZoneFinder
from aegis_common.clock import Clock

TABLE: Final = "table"
"""Source of what the table of places says."""
_ASK_AGAIN: Final = timedelta(days=1)
_KEPT: Final = timedelta(days=7)


class ZoneQuality(Enum):
    """How well a zone fits a place, best first."""

    EXACT = "exact"
    COUNTRY = "country"
    NEAREST = "nearest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedZone:
    """A zone that a place lies in.

    Attributes:
        zone: From the catalogue.
        quality: How well it fits.
        source: `table`, or the provider that was asked.
        table_version: Of the table; empty where a provider was asked.
        grid_zone: What the source calls the zone.
        near: The known place nearby; empty where the place itself is known.
        distance_km: How far that is away.
    """

    zone: Zone
    quality: ZoneQuality
    source: str
    table_version: str
    grid_zone: str
    near: str = ""
    distance_km: float | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """The zones of a place.

    Attributes:
        place: As it was understood.
        zones: At least one, the best first.
    """

    place: str
    zones: tuple[ResolvedZone, ...]


@dataclass(frozen=True, slots=True)
class _Said:
    """What providers say of a place.

    Attributes:
        zones: Of this deployment.
        unknown: Whether one of them said that there is no such place.
        elsewhere: What they call its zone, where no provider here covers it.
    """

    zones: tuple[ResolvedZone, ...]
    unknown: bool
    elsewhere: tuple[GridZone, ...]


class ZoneResolver:
    """Looks in the table of places, and asks the providers that know more.

    Args:
        catalog: The zones of this deployment.
        table: What is known of places.
        finders: Providers that find zones, in order of preference.
        asking: Puts the questions.
        clock: Present time.
    """

    def __init__(
        self,
        catalog: ZoneCatalog,
        table: PlaceTable,
        finders: Iterable[ZoneFinder],
        asking: Asking,
        *,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._table = table
        self._finders = list(finders)
        self._asking = asking
        self._clock = clock

    async def cloud_region(self, name: str, *, within: float) -> Resolution:
        """Return the zones of a region of a cloud.

        Args:
            name: `CLOUD/ID`, or an id that one cloud only has.
            within: Seconds that the caller can wait.

        Raises:
            UnknownPlace: No cloud has it, or several have.
            UnknownZone: No provider here covers its zone.
        """
        found = self._table.regions(name)
        return await self._region(name, found, self._table.region_names, within)

    async def topology_label(self, value: str, *, within: float) -> Resolution:
        """Return the zones of a node with a topology label of Kubernetes, as `cloud_region` does."""
        found = self._table.labelled(value)
        return await self._region(value, found, self._table.region_names, within)

    async def country(self, code: str) -> Resolution:
        """Return the zones of a country.

        Raises:
            UnknownPlace: There is no country with this code.
            UnknownZone: No provider here covers the country as a whole.
        """
        country = self._table.country(code)
        if country is None:
            raise unknown_place("country", code, self._table.country_codes)
        place = f"{country.code} ({country.name})"
        known = self._known(country.grid_zones, ZoneQuality.EXACT)
        if not known:
            raise uncovered_place(place, country.grid_zones, self._parts_of(country.code))
        return Resolution(place, known)

    async def postcode(self, text: str, *, within: float) -> Resolution:
        """Return the zones of a postcode of the United Kingdom.

        Raises:
            InvalidArgument: It is none.
            UnknownPlace: The provider that knows postcodes does not know it.
            UnknownZone: No provider here covers its zone.
        """
        postcode = Postcode.of(text)
        grid_zone = postcode.grid_zone
        whole = ZoneQuality.COUNTRY if grid_zone.name == "GB" else ZoneQuality.EXACT
        if whole is ZoneQuality.COUNTRY:
            said = await self._asked(postcode, within)
            if said.zones:
                return Resolution(str(postcode), said.zones)
            if said.unknown:
                raise unknown_place("postcode", str(postcode), [])
        known = self._known([grid_zone], whole)
        if not known:
            raise uncovered_place(str(postcode), [grid_zone], self._parts_of("GB"))
        return Resolution(str(postcode), known)

    async def point(self, point: Point, *, within: float) -> Resolution:
        """Return the zones of a point on the earth: by a provider that knows, else those of what is nearby.

        Raises:
            UnknownPlace: There is no known place near it.
            UnknownZone: No provider here covers the zone of the nearest.
        """
        point = point.rounded()
        said = await self._asked(point, within)
        if said.zones:
            return Resolution(str(point), said.zones)
        if said.elsewhere:
            raise uncovered_place(str(point), said.elsewhere, [])
        near = self._table.near(point)
        if not near or near[0][1] > NEAREST_KM:
            told = [f"{spot.name} ({spot.zone}, {km:.0f} km)" for spot, km in near]
            raise unknown_place("location", str(point), [], near=told)
        zones = [self._nearby(spot, km) for spot, km in near if km <= NEAREST_KM]
        if not zones[0]:
            spot, km = near[0]
            place = f"{point}, {km:.0f} km from {spot.name},"
            raise uncovered_place(place, _of(spot), self._parts_of(spot.country.code))
        unique = {found.zone.id: found for row in reversed(zones) for found in reversed(row)}
        return Resolution(str(point), tuple(reversed(unique.values())))

    async def _region(
        self, name: str, found: Sequence[CloudRegion], known: Sequence[str], within: float
    ) -> Resolution:
        if not found:
            raise unknown_place("cloud region", name, known)
        if len(found) > 1:
            raise ambiguous_place(name, [region.name for region in found])
        region, spot = found[0], found[0].spot
        place = f"{region.name} ({spot.name}, {spot.country.code})"
        zones = self._known(spot.grid_zones, ZoneQuality.EXACT)
        if not zones:
            zones = (await self._asked(spot.point, within)).zones
        zones = zones or self._known(spot.country.grid_zones, ZoneQuality.COUNTRY)
        if not zones:
            raise uncovered_place(place, _of(spot), self._parts_of(spot.country.code))
        return Resolution(place, zones)

    def _known(self, grid_zones: Sequence[GridZone], quality: ZoneQuality) -> tuple[ResolvedZone, ...]:
        return tuple(
            ResolvedZone(
                zone=zone,
                quality=quality,
                source=TABLE,
                table_version=self._table.version,
                grid_zone=grid_zone.name,
            )
            for zone, grid_zone in self._catalog.named(grid_zones)
        )

    def _nearby(self, spot: Spot, km: float) -> list[ResolvedZone]:
        return [
            ResolvedZone(
                zone=zone,
                quality=ZoneQuality.NEAREST,
                source=TABLE,
                table_version=self._table.version,
                grid_zone=grid_zone.name,
                near=spot.name,
                distance_km=km,
            )
            for zone, grid_zone in self._catalog.named(_of(spot))
        ]

    async def _asked(self, place: Point | Postcode, within: float) -> _Said:
        """Return what providers say: the first that names a zone of this deployment."""
        able = [finder for finder in self._finders if type(place) in finder.capabilities.finds]
        loop = asyncio.get_running_loop()
        deadline, unknown, elsewhere = loop.time() + within, False, list[GridZone]()
        for index, finder in enumerate(able):
            wait = max(0.0, deadline - loop.time()) / (len(able) - index)
            key = CacheKey(finder.name, f"{type(place).__name__.lower()}:{place}", Topic.PLACE)
            entry = await self._asking.answer(
                key, self._question(finder, place), wait=wait, enough=lambda entry: entry.value is not None
            )
            if entry is None or entry.value is None:
                unknown = unknown or (entry is not None and entry.fault == NO_DATA)
                continue
            if zones := self._called(finder.name, entry.value):
                return _Said(zones, unknown=False, elsewhere=())
            elsewhere.append(entry.value)
        return _Said((), unknown=unknown, elsewhere=tuple(elsewhere))

    def _called(self, provider: str, grid_zone: GridZone) -> tuple[ResolvedZone, ...]:
        """Return the zones that *provider* calls so or, where it has none, other providers."""
        own = self._catalog.at(provider, grid_zone.name)
        zones = [own] if own is not None else [zone for zone, _ in self._catalog.named([grid_zone])]
        return tuple(
            ResolvedZone(
                zone=zone,
                quality=ZoneQuality.EXACT,
                source=provider,
                table_version="",
                grid_zone=grid_zone.name,
            )
            for zone in zones
        )

    def _question(self, finder: ZoneFinder, place: Point | Postcode) -> Question[GridZone]:
        async def ask(_: GridZone | None) -> GridZone | None:
            return await finder.find(place)

        return Question(ask, lambda _: self._clock() + _ASK_AGAIN, lambda _: _KEPT)

    def _parts_of(self, code: str) -> list[str]:
        """Return the zones here that are called a part of the country *code*."""
        return [
            zone.id
            for zone in self._catalog.all()
            if any(name == code or name.startswith(f"{code}-") for name in (zone.id, *zone.aliases))
        ]


def _of(spot: Spot) -> tuple[GridZone, ...]:
    """Return what the zone of a spot may be called, that of its country last."""
    return tuple(dict.fromkeys((*spot.grid_zones, *spot.country.grid_zones)))
