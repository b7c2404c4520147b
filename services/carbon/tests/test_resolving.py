"""From a place to the zones of a deployment: by the table, by a provider, by what is near, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from aegis_carbon.domain.errors import UnknownPlace, UnknownZone
from aegis_carbon.domain.places import Point
from aegis_carbon.domain.resolving import Resolution, ZoneQuality, ZoneResolver
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.dialects import serve
from aegis_carbon.testing.uk_api import Answer, Request, UkApi
from aegis_carbon.wiring import carbon
from aegis_common.errors import AegisError
from aegis_common.testing.redis import RedisServer

W = 20.0
EXACT, COUNTRY, NEAREST = ZoneQuality.EXACT, ZoneQuality.COUNTRY, ZoneQuality.NEAREST
LONDON, BERLIN, OCEAN = Point(51.51, -0.13), Point(52.52, 13.4), Point(30.0, -40.0)
TABLE_VERSION = "2026-11-30"
Build = Callable[..., Awaitable[ZoneResolver]]


@pytest.fixture
async def build(uk_api: UkApi, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Build]:
    """Returns a function that makes a resolver: of the UK, and of other providers with such zones."""
    secret = tmp_path / "secret"
    secret.write_text("hush", "utf-8")
    async with AsyncExitStack() as stack:

        async def make(em: Any = None, watttime: Any = None, uk: bool = True, **more: Any) -> ZoneResolver:
            names = {"uk": uk, "electricity_maps": em, "watttime": watttime, "replay": True}
            told: dict[str, Any] = {"providers": [name for name, wanted in names.items() if wanted]}
            if em:
                told["electricity_maps"] = {"key_file": secret, "zones": em, "url": uk_api.url}
            if watttime:
                account = {"user_file": secret, "password_file": secret, "url": uk_api.url}
                told["watttime"] = {"zones": watttime, **account}
            settings = IntensitySettings.model_validate({"api_url": uk_api.url, **told, **more})
            return (await stack.enter_async_context(carbon(settings, clock=clock))).resolver

        yield make


def brief(found: Resolution) -> list[tuple[str, ZoneQuality, str, str]]:
    return [(row.zone.id, row.quality, row.source, row.grid_zone) for row in found.zones]


async def refused(call: Awaitable[Resolution]) -> AegisError:
    with pytest.raises((UnknownPlace, UnknownZone)) as caught:
        await call
    return caught.value


class TestACloudRegion:
    async def test_it_has_the_zone_that_the_table_says(self, build: Build) -> None:
        found = await (await build()).cloud_region("aws/eu-west-2", within=W)

        assert [("GB", EXACT, "table", "GB")] == brief(found)
        assert ("aws/eu-west-2 (London, GB)", TABLE_VERSION) == (found.place, found.zones[0].table_version)

    async def test_each_provider_has_its_own_name_for_it(self, build: Build) -> None:
        resolver = await build(em={"california": "US-CAL-CISO"}, watttime={"north": "CAISO_NORTH"})
        found = await resolver.cloud_region("us-west-1", within=W)

        assert [
            ("california", EXACT, "table", "US-CAL-CISO"),
            ("north", EXACT, "table", "CAISO_NORTH"),
        ] == brief(found)

    async def test_a_name_of_one_provider_means_nothing_to_another(self, build: Build) -> None:
        """`SC` is South Carolina to WattTime, and the Seychelles to everybody else."""
        resolver = await build(watttime=["SC"])

        assert [("SC", EXACT, "table", "SC")] == brief(await resolver.cloud_region("gcp/us-east1", within=W))
        assert "UNKNOWN_ZONE" == (await refused(resolver.country("SC"))).reason

    async def test_where_its_zone_is_not_covered_the_countrys_is_given_as_such(self, build: Build) -> None:
        resolver = await build(em=["SE"])
        found = await resolver.cloud_region("gcp/europe-north2", within=W)

        assert [("SE", COUNTRY, "table", "SE")] == brief(found)

    async def test_where_the_table_does_not_know_a_provider_is_asked(
        self, build: Build, uk_api: UkApi
    ) -> None:
        serve(uk_api, lambda request: Answer({"zone": "US-NW-WACM", "carbonIntensity": 5}))
        found = await (await build(em=["US-NW-WACM"])).cloud_region("westcentralus", within=W)

        assert [("US-NW-WACM", EXACT, "electricity_maps", "US-NW-WACM")] == brief(found)
        assert "lat=41.14&lon=-104.82" in uk_api.requests[0].path

    async def test_one_that_is_not_covered_is_refused_with_who_could_cover_it(self, build: Build) -> None:
        error = await refused((await build()).cloud_region("aws/us-west-1", within=W))

        assert ("UNKNOWN_ZONE", "US-CAL-CISO") == (error.reason, error.metadata["zone"])
        assert "electricity_maps:US-CAL-CISO,watttime:CAISO_NORTH" in error.metadata["could_cover"]
        assert "which no provider here covers" in str(error)

    async def test_one_that_does_not_exist_is_refused_with_near_matches(self, build: Build) -> None:
        error = await refused((await build()).cloud_region("aws/eu-west-22", within=W))

        assert "UNKNOWN_PLACE" == error.reason
        assert "aws/eu-west-2" in error.metadata["near_matches"].split(",")

    async def test_a_node_has_the_zone_of_its_region(self, build: Build) -> None:
        resolver = await build(em=["DE"])
        labels = ("eu-central-1a", "europe-west3-b", "germanywestcentral-1")
        found = [brief(await resolver.topology_label(label, within=W)) for label in labels]

        assert [[("DE", EXACT, "table", "DE")]] * 3 == found


class TestACountry:
    async def test_it_has_its_own_zone(self, build: Build) -> None:
        resolver = await build(em={"home": "DE"})

        assert [("home", EXACT, "table", "DE")] == brief(await resolver.country("deu"))

    async def test_a_part_of_it_is_not_taken_for_the_whole(self, build: Build) -> None:
        error = await refused((await build(em=["US-CAL-CISO"])).country("US"))

        assert ("UNKNOWN_ZONE", "US-CAL-CISO") == (error.reason, error.metadata["near_matches"])

    async def test_one_that_does_not_exist_is_refused(self, build: Build) -> None:
        assert "UNKNOWN_PLACE" == (await refused((await build()).country("ZZ"))).reason


class TestAPostcode:
    @pytest.mark.parametrize("wrap", [lambda region: [region], lambda region: region], ids=["list", "object"])
    async def test_it_has_the_region_that_the_provider_says(
        self, build: Build, uk_api: UkApi, wrap: Callable[[Any], Any]
    ) -> None:
        uk_api.default = Answer({"data": wrap({"regionid": 13, "shortname": "London", "data": []})})
        resolver = await build()
        found = [await resolver.postcode(text, within=W) for text in ("SW1A 1AA", "sw1a")]

        assert [[("GB-london", EXACT, "uk", "GB-13")]] * 2 == [brief(item) for item in found]
        assert ["/regional/postcode/SW1A"] == [request.path for request in uk_api.requests]

    async def test_replicas_ask_once(
        self, build: Build, uk_api: UkApi, redis: RedisServer, clock: ManualClock
    ) -> None:
        uk_api.default = Answer({"data": [{"regionid": 3}]})
        for _ in range(2):
            resolver = await build(cache_redis_url=SecretStr(redis.url))
            found = await resolver.postcode("M1", within=W)
            clock.move(hours=1)

            assert ["GB-north-west-england"] == [row.zone.id for row in found.zones]
        assert 1 == len(uk_api.requests)

    @pytest.mark.parametrize("answer", [Answer(None, 400), Answer({"data": []}), Answer({})])
    async def test_one_that_the_provider_does_not_know_is_refused(
        self, build: Build, uk_api: UkApi, answer: Answer
    ) -> None:
        uk_api.default = answer

        assert "UNKNOWN_PLACE" == (await refused((await build()).postcode("ZZ1", within=W))).reason

    @pytest.mark.parametrize(
        "answer", [Answer(None, 403), Answer({"data": [{"regionid": 99}]}), Answer({"data": ["x"]})]
    )
    async def test_while_the_provider_is_away_it_has_the_countrys_zone(
        self, build: Build, uk_api: UkApi, answer: Answer
    ) -> None:
        uk_api.default = answer

        assert [("GB", COUNTRY, "table", "GB")] == brief(await (await build()).postcode("M1", within=W))

    async def test_northern_ireland_is_another_grid(self, build: Build, uk_api: UkApi) -> None:
        error = await refused((await build()).postcode("BT1 5GS", within=W))
        found = await (await build(em=["GB-NIR"])).postcode("BT1 5GS", within=W)

        assert ("UNKNOWN_ZONE", "electricity_maps:GB-NIR") == (error.reason, error.metadata["could_cover"])
        assert [("GB-NIR", EXACT, "table", "GB-NIR")] == brief(found)
        assert [] == uk_api.requests


class TestAPoint:
    async def test_it_has_the_zone_of_the_place_nearby_with_the_distance(self, build: Build) -> None:
        found = await (await build()).point(Point(51.6, -0.4), within=W)

        assert [("GB", NEAREST, "table", "GB")] == brief(found)
        assert "London" == found.zones[0].near
        assert 21 == pytest.approx(found.zones[0].distance_km, abs=2)

    async def test_near_a_border_both_zones_are_told(self, build: Build) -> None:
        found = await (await build(em=["FR", "DE"], uk=False, default_zone="demo-day")).point(
            Point(49.0, 8.1), within=W
        )

        assert {"DE", "FR"} == {row.zone.id for row in found.zones}
        distances = [row.distance_km or 0 for row in found.zones]
        assert sorted(distances) == distances

    async def test_a_provider_knows_better(self, build: Build, uk_api: UkApi) -> None:
        serve(uk_api, lambda request: Answer({"zone": "DE", "carbonIntensity": None}))
        found = await (await build(em={"home": "DE"})).point(Point(52.519, 13.404), within=W)

        assert [("home", EXACT, "electricity_maps", "DE")] == brief(found)
        path = uk_api.requests[0].path
        assert "lat=52.52&lon=13.40" in path
        assert "shouldUseFallbackCallerLookup=false" in path

    async def test_watttime_knows_its_region(self, build: Build, uk_api: UkApi) -> None:
        def answer(request: Request) -> Answer:
            assert request.path.startswith(
                "/v3/region-from-loc?latitude=37.34&longitude=-121.89&signal_type="
            )
            return Answer({"region": "CAISO_NORTH", "region_full_name": "CAISO North", "signal_type": "x"})

        serve(uk_api, answer)
        resolver = await build(watttime=["CAISO_NORTH"], uk=False)
        found = await resolver.point(Point(37.34, -121.89), within=W)

        assert [("CAISO_NORTH", EXACT, "watttime", "CAISO_NORTH")] == brief(found)

    async def test_what_one_provider_names_another_may_cover(self, build: Build, uk_api: UkApi) -> None:
        serve(uk_api, lambda request: Answer({"zone": "GB"}))
        found = await (await build(em=["DE"])).point(LONDON, within=W)

        assert [("GB", EXACT, "electricity_maps", "GB")] == brief(found)

    async def test_a_zone_that_a_provider_names_and_nobody_covers_is_refused_not_guessed(
        self, build: Build, uk_api: UkApi
    ) -> None:
        serve(uk_api, lambda request: Answer({"zone": "PL"}))
        error = await refused((await build(em=["DE"])).point(BERLIN, within=W))

        assert ("UNKNOWN_ZONE", "PL") == (error.reason, error.metadata["zone"])

    async def test_while_the_provider_is_away_what_is_nearby_counts(
        self, build: Build, uk_api: UkApi
    ) -> None:
        serve(uk_api, lambda request: Answer(None, 403))

        assert [("DE", NEAREST, "table", "DE")] == brief(
            await (await build(em=["DE"])).point(BERLIN, within=W)
        )

    async def test_one_near_a_place_that_is_not_covered_is_refused(self, build: Build) -> None:
        error = await refused((await build()).point(BERLIN, within=W))

        assert ("UNKNOWN_ZONE", "DE") == (error.reason, error.metadata["zone"])
        assert "0 km from Berlin" in str(error)

    async def test_one_far_from_everything_is_refused_with_what_is_nearest(self, build: Build) -> None:
        error = await refused((await build()).point(OCEAN, within=W))

        assert "UNKNOWN_PLACE" == error.reason
        assert "km)" in error.metadata["near_matches"]


async def test_a_zone_answers_to_what_its_provider_calls_it(build: Build) -> None:
    resolver = await build(em={"home": "DE"})
    catalog = resolver._catalog

    assert ("GB-london", ("GB-13",)) == (catalog.get("GB-13").id, catalog.get("GB-london").aliases)
    assert ("GB", "home") == (catalog.get("GB-18").id, catalog.get("DE").id)
    with pytest.raises(UnknownZone, match="GB-1"):
        catalog.get("GB-19")
