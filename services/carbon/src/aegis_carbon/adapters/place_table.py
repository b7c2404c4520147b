"""The table of places that comes with the package: CSV files with their version and sources on top."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from aegis_carbon.domain.places import CLOUDS, CloudRegion, Country, PlaceTable, Point, Spot

FOLDER: Final = Path(__file__).parent.parent / "data" / "places"
_VERSION: Final = "# version: "


@cache
def packaged_table() -> PlaceTable:
    """Return the packaged table; its version is that of its newest file."""
    return read_table(FOLDER)


def read_table(folder: Path) -> PlaceTable:
    """Return the table in the files `countries.csv`, `cities.csv` and `cloud_regions.csv`.

    Raises:
        ValueError: A row is broken: an unknown cloud or country, or a point that is none.
    """
    files = {name: _rows(folder / f"{name}.csv") for name in ("countries", "cities", "cloud_regions")}
    countries = {row["code"]: _country(row) for row in files["countries"][1]}
    spots = [
        _spot(row["capital"], countries, {**row, "country": row["code"], "zone": row["zone"] or row["code"]})
        for row in files["countries"][1]
        if row["capital"]
    ]
    spots += [_spot(row["place"], countries, row) for row in files["cities"][1]]
    regions = [
        CloudRegion(_cloud(row["provider"]), row["region"], _spot(row["place"], countries, row))
        for row in files["cloud_regions"][1]
    ]
    return PlaceTable(max(version for version, _ in files.values()), regions, list(countries.values()), spots)


def _rows(path: Path) -> tuple[str, list[dict[str, str]]]:
    lines = path.read_text("utf-8").splitlines()
    if not lines[0].startswith(_VERSION):
        raise ValueError(f"{path.name} does not begin with {_VERSION!r}")
    return lines[0].removeprefix(_VERSION), list(
        csv.DictReader(line for line in lines if not line.startswith("#"))
    )


def _country(row: Mapping[str, str]) -> Country:
    return Country(row["code"], row["code3"], row["name"], row["watttime"])


def _spot(name: str, countries: Mapping[str, Country], row: Mapping[str, str]) -> Spot:
    point = Point(float(row["latitude"]), float(row["longitude"]))
    if not (abs(point.latitude) <= 90 and abs(point.longitude) <= 180):
        raise ValueError(f"{name}: {point} is no point on the earth")
    country = countries.get(row["country"])
    if country is None:
        raise ValueError(f"{name}: there is no country {row['country']!r}")
    return Spot(name, country, row["zone"], row.get("watttime", ""), point)


def _cloud(name: str) -> str:
    if name not in CLOUDS:
        raise ValueError(f"there is no cloud {name!r}")
    return name
