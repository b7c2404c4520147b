"""Places that have a grid zone: regions of clouds, countries, postcodes, and known places on the earth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt
from typing import Final

from aegis_common.errors import InvalidArgument

ISO: Final = "iso"
"""Names of grid zones as most providers have them: a country's code, or `US-CAL-CISO`."""
WATTTIME: Final = "watttime"
"""Names of grid zones as WattTime has them; `SC` is South Carolina there, and the Seychelles elsewhere."""
CLOUDS: Final = ("aws", "azure", "gcp")
NEAREST_KM: Final = 150.0
"""A known place that is further away says nothing of a point."""
_RIVALS: Final = 2.0
"""What is up to so many times as far away as the nearest may be on the right side of a border."""
_EARTH_KM: Final = 6371.0
_ZONE_OF_REGION: Final = {"aws": r"[a-z]", "azure": r"-[0-9]{1,2}", "gcp": r"-[a-z]"}
"""What follows the region in the name of one of its zones; a local zone of AWS is in another city."""
_POSTCODE: Final = re.compile(r"(([A-Z]{1,2})[0-9][A-Z0-9]?) ?([0-9][A-Z]{2})?")
_OTHER_GRIDS: Final = {"BT": "GB-NIR", "GY": "GG", "IM": "IM", "JE": "JE"}
"""Postcode areas outside of the grid of Great Britain."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point on the earth.

    Attributes:
        latitude: Degrees north, -90 to 90.
        longitude: Degrees east, -180 to 180.
    """

    latitude: float
    longitude: float

    def km_to(self, other: Point) -> float:
        """Return the distance on a sphere (haversine formula); right to about 0.5 %."""
        a, b = radians(self.latitude), radians(other.latitude)
        across = radians(other.longitude - self.longitude)
        half = sin((b - a) / 2) ** 2 + cos(a) * cos(b) * sin(across / 2) ** 2
        return 2 * _EARTH_KM * asin(min(1.0, sqrt(half)))

    def rounded(self) -> Point:
        """Return the point to a hundredth of a degree, about 1 km."""
        return Point(round(self.latitude, 2) + 0.0, round(self.longitude, 2) + 0.0)

    def __str__(self) -> str:
        return f"{self.latitude:g},{self.longitude:g}"


@dataclass(frozen=True, slots=True)
class Postcode:
    """A postcode of the United Kingdom.

    Attributes:
        outward: Its first half, for example `SW1A`.
        area: The letters that it begins with.
    """

    outward: str
    area: str

    @classmethod
    def of(cls, text: str) -> Postcode:
        """Read a whole postcode, or its first half.

        Raises:
            InvalidArgument: It is none.
        """
        found = _POSTCODE.fullmatch(" ".join(text.upper().split()))
        if found is None:
            raise InvalidArgument(
                f"{text!r} is no postcode of the United Kingdom; for example SW1A 1AA, or SW1A",
                violations={"postcode": "like SW1A 1AA, or SW1A"},
            )
        return cls(found[1], found[2])

    @property
    def grid_zone(self) -> GridZone:
        """The grid that it belongs to, which its area tells."""
        return GridZone(_OTHER_GRIDS.get(self.area, "GB"))

    def __str__(self) -> str:
        return self.outward


@dataclass(frozen=True, slots=True)
class GridZone:
    """What a source calls a zone.

    Attributes:
        name: For example `DE`.
        naming: Whose name that is: `ISO` or `WATTTIME`.
    """

    name: str
    naming: str = ISO


@dataclass(frozen=True, slots=True)
class Country:
    """A country of ISO 3166-1.

    Attributes:
        code: Of two letters.
        code3: Of three.
        name: For people.
        watttime: What WattTime calls it; empty where that is not known.
    """

    code: str
    code3: str
    name: str
    watttime: str

    @property
    def grid_zones(self) -> tuple[GridZone, ...]:
        return _grid_zones(self.code, self.watttime)


@dataclass(frozen=True, slots=True)
class Spot:
    """A known place on the earth: a city, or what a cloud calls the place of a region.

    Attributes:
        name: For people.
        country: Its country.
        zone: Its grid zone by the names of Electricity Maps; empty where nobody checked.
        watttime: The same by those of WattTime.
        point: Where it is.
    """

    name: str
    country: Country
    zone: str
    watttime: str
    point: Point

    @property
    def grid_zones(self) -> tuple[GridZone, ...]:
        return _grid_zones(self.zone, self.watttime)


@dataclass(frozen=True, slots=True)
class CloudRegion:
    """A region of a cloud.

    Attributes:
        cloud: One of `CLOUDS`.
        id: As the cloud writes it.
        spot: Where it is.
    """

    cloud: str
    id: str
    spot: Spot

    @property
    def name(self) -> str:
        return f"{self.cloud}/{self.id}"


class PlaceTable:
    """What is known of places.

    Args:
        version: Date of the table.
        regions: Of clouds.
        countries: All of them.
        spots: Known places, those of the regions left out.
    """

    def __init__(
        self,
        version: str,
        regions: Sequence[CloudRegion],
        countries: Sequence[Country],
        spots: Sequence[Spot],
    ) -> None:
        self.version: Final = version
        self._regions = {region.name: region for region in regions}
        self._by_id: dict[str, list[CloudRegion]] = {}
        for region in regions:
            self._by_id.setdefault(region.id, []).append(region)
        self._countries = {code: country for country in countries for code in (country.code, country.code3)}
        self._spots = [spot for spot in (*spots, *(region.spot for region in regions)) if spot.zone]

    @property
    def region_names(self) -> list[str]:
        return list(self._regions)

    @property
    def country_codes(self) -> list[str]:
        return list(self._countries)

    def regions(self, name: str) -> list[CloudRegion]:
        """Return the regions called *name*, `CLOUD/ID` or an id alone; several where clouds share the id."""
        folded = name.strip().lower().replace(" ", "")
        found = self._regions.get(folded)
        return [found] if found is not None else self._by_id.get(folded, [])

    def labelled(self, value: str) -> list[CloudRegion]:
        """Return the regions that a node with a topology label of this value may be in."""
        return self.regions(value) or [
            region
            for cloud, tail in _ZONE_OF_REGION.items()
            if (found := re.fullmatch(rf"(.+[0-9a-z]){tail}", value.strip().lower()))
            and (region := self._regions.get(f"{cloud}/{found[1]}")) is not None
        ]

    def country(self, code: str) -> Country | None:
        """Return the country with a code of two or three letters; `UK` is the United Kingdom."""
        folded = code.strip().upper()
        return self._countries.get("GB" if folded == "UK" else folded)

    def near(self, point: Point) -> list[tuple[Spot, float]]:
        """Return known places with their distance in km, the nearest first: the nearest of each grid zone.

        Beyond the nearest of all, only those are told that are not much further away than it.
        """
        ordered = sorted(((spot, point.km_to(spot.point)) for spot in self._spots), key=lambda item: item[1])
        found: dict[str, tuple[Spot, float]] = {}
        for spot, km in ordered:
            if found and km > _RIVALS * ordered[0][1]:
                break
            found.setdefault(spot.zone, (spot, km))
        return list(found.values())


def _grid_zones(iso: str, watttime: str) -> tuple[GridZone, ...]:
    named: Iterable[tuple[str, str]] = ((iso, ISO), (watttime, WATTTIME))
    return tuple(GridZone(name, naming) for name, naming in named if name)
