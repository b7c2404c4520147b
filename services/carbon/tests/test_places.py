"""The table of places: what it holds, and how names and points are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aegis_carbon.adapters.place_table import FOLDER, packaged_table, read_table
from aegis_carbon.domain.places import CloudRegion, Country, PlaceTable, Point, Postcode, Spot
from aegis_common.errors import InvalidArgument

TABLE = packaged_table()
GERMANY = Country("DE", "DEU", "Germany", "")
HERE = Spot("Here", GERMANY, "DE", "", Point(50, 8))


def names(found: list[CloudRegion]) -> list[str]:
    return [region.name for region in found]


def test_every_country_of_the_standard_has_both_codes() -> None:
    codes = TABLE.country_codes

    assert 249 * 2 == len(codes)
    assert {"DE", "DEU", "US", "USA"} <= set(codes)


def test_each_region_has_a_zone_of_its_country_and_its_own_letters() -> None:
    for name in TABLE.region_names:
        [region] = TABLE.regions(name)

        assert re.fullmatch(r"(aws|azure|gcp)/[a-z][a-z0-9-]{3,30}", region.name)
        assert not region.spot.zone or region.spot.zone.split("-")[0] == region.spot.country.code


def test_a_region_lies_where_its_country_does() -> None:
    """A swapped sign or column would put it far from every city that is known."""
    capitals = {spot.country.code: spot for spot in read_table(FOLDER)._spots}
    for name in TABLE.region_names:
        spot = TABLE.regions(name)[0].spot

        assert spot.point.km_to(capitals[spot.country.code].point) < 4500


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aws/eu-central-1", ["aws/eu-central-1"]),
        ("AWS/EU-Central-1", ["aws/eu-central-1"]),
        ("eu-central-1", ["aws/eu-central-1"]),
        ("West Europe", ["azure/westeurope"]),
        ("gcp/europe-west3", ["gcp/europe-west3"]),
        ("gcp/eu-central-1", []),
        ("eu-central-9", []),
        ("", []),
    ],
)
def test_a_region_is_known_by_its_cloud_and_id_or_its_id_alone(text: str, found: list[str]) -> None:
    assert found == names(TABLE.regions(text))


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("eu-central-1", ["aws/eu-central-1"]),
        ("eu-central-1a", ["aws/eu-central-1"]),
        ("europe-west3-b", ["gcp/europe-west3"]),
        ("europe-west12-a", ["gcp/europe-west12"]),
        ("westeurope-2", ["azure/westeurope"]),
        ("us-west-2-lax-1a", []),
        ("rack-7", []),
        ("0", []),
    ],
)
def test_a_topology_label_is_a_region_or_a_zone_of_one(label: str, found: list[str]) -> None:
    """A local zone of AWS is in another city than its region."""
    assert found == names(TABLE.labelled(label))


def test_an_id_that_two_clouds_have_means_both() -> None:
    table = PlaceTable("1", [CloudRegion(cloud, "here", HERE) for cloud in ("aws", "gcp")], [], [])

    assert ["aws/here", "gcp/here"] == names(table.regions("here"))
    assert ["gcp/here"] == names(table.regions("gcp/here"))


@pytest.mark.parametrize("code", ["gb", "GBR", "UK", " gb "])
def test_a_country_is_known_by_two_letters_or_three(code: str) -> None:
    found = TABLE.country(code)

    assert found is not None
    assert "GB" == found.code


def test_a_country_without_such_a_code_is_not_known() -> None:
    assert TABLE.country("XX") is None


def test_a_distance_is_that_on_a_sphere() -> None:
    london, paris = Point(51.51, -0.13), Point(48.86, 2.35)

    assert 344 == pytest.approx(london.km_to(paris), abs=3)
    assert 0 == london.km_to(london)
    assert 20015 == pytest.approx(Point(0, 0).km_to(Point(0, 180)), abs=1)
    assert Point(0, 179.9).km_to(Point(0, -179.9)) < 25


def test_near_a_point_the_nearest_of_each_grid_zone_is_told() -> None:
    near = TABLE.near(Point(48.58, 7.80))  # Strasbourg, at the border

    assert [("Strasbourg", "FR")] == [(spot.name, spot.zone) for spot, _ in near]
    border = TABLE.near(Point(49.0, 8.1))
    assert {"DE", "FR"} == {spot.zone for spot, _ in border}


@pytest.mark.parametrize(
    ("text", "outward", "grid"),
    [
        ("SW1A 1AA", "SW1A", "GB"),
        ("sw1a1aa", "SW1A", "GB"),
        ("M1 1AE", "M1", "GB"),
        ("RG41", "RG41", "GB"),
        ("E1 6AN", "E1", "GB"),
        ("BT1 5GS", "BT1", "GB-NIR"),
        ("JE2 3AB", "JE2", "JE"),
        ("IM1 1AA", "IM1", "IM"),
    ],
)
def test_a_postcode_is_read_to_its_first_half(text: str, outward: str, grid: str) -> None:
    found = Postcode.of(text)

    assert (outward, grid) == (str(found), found.grid_zone.name)


@pytest.mark.parametrize("text", ["", "SW", "12345", "SW1A 1A", "SW1A/1AA", "../..", "SW1A 1AA X"])
def test_what_is_no_postcode_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="for example SW1A 1AA"):
        Postcode.of(text)


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("cities.csv", "Nowhere,XX,XX,1,1", "no country 'XX'"),
        ("cities.csv", "Nowhere,DE,DE,91,1", "no point on the earth"),
        ("cloud_regions.csv", "ibm,eu-de,Frankfurt,DE,DE,,50,8", "no cloud 'ibm'"),
    ],
)
def test_a_broken_row_is_told(tmp_path: Path, file: str, line: str, fault: str) -> None:
    for source in FOLDER.glob("*.csv"):
        more = f"{line}\n" if source.name == file else ""
        (tmp_path / source.name).write_text(source.read_text("utf-8") + more, "utf-8")

    with pytest.raises(ValueError, match=fault):
        read_table(tmp_path)


def test_a_file_without_a_version_is_told(tmp_path: Path) -> None:
    for source in FOLDER.glob("*.csv"):
        (tmp_path / source.name).write_text(source.read_text("utf-8").partition("\n")[2], "utf-8")

    with pytest.raises(ValueError, match="does not begin with"):
        read_table(tmp_path)
