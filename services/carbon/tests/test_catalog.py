"""Zones: order, default, thresholds, unknown names."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.series import Series, read_series
from aegis_carbon.adapters.uk import UkProvider
from aegis_carbon.domain.catalog import ZoneCatalog
from aegis_carbon.domain.errors import UnknownZone
from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.providers import IntensityProvider
from aegis_carbon.testing.clock import ManualClock
from aegis_common.errors import ConfigurationError


@pytest.fixture
async def uk(clock: ManualClock) -> UkProvider:
    return UkProvider(JsonApi(httpx.AsyncClient(), clock=clock, timeout=timedelta(seconds=1)), clock=clock)


def catalog(*providers: IntensityProvider, default_zone: str = "GB", **thresholds: float) -> ZoneCatalog:
    return ZoneCatalog(providers, default_zone=default_zone, threshold=150, zone_thresholds=thresholds)


def replay(zone: str, clock: ManualClock, **changes: Signal) -> ReplayProvider:
    series: Series = read_series(PACKAGED)
    values = {zone: series.values["demo-day"]}
    return ReplayProvider(replace(series, values=values, names={zone: "Recorded"}, **changes), clock=clock)  # type: ignore[arg-type]


def test_zones_are_ordered_and_one_is_the_default(uk: UkProvider, clock: ManualClock) -> None:
    zones = catalog(uk, ReplayProvider(read_series(PACKAGED), clock=clock)).all()

    ids = [zone.id for zone in zones]
    assert sorted(ids) == ids
    assert {"GB", "GB-london", "demo-clean", "demo-day", "demo-dirty"} < set(ids)
    assert ["GB"] == [zone.id for zone in zones if zone.default]


def test_a_zone_lists_its_providers_in_order_of_preference(uk: UkProvider, clock: ManualClock) -> None:
    recorded = replay("GB", clock)

    assert ("uk", "replay") == catalog(uk, recorded).get("GB").providers
    assert ("replay", "uk") == catalog(recorded, uk).get("GB").providers
    assert ("uk",) == catalog(uk, recorded).get("GB-london").providers


def test_a_zone_has_its_own_threshold_or_the_common_one(uk: UkProvider) -> None:
    zones = catalog(uk, GB=90)

    assert (90, 150) == (
        zones.get("GB").threshold_g_per_kwh,
        zones.get("GB-wales").threshold_g_per_kwh,
    )


def test_an_empty_name_is_the_default_zone(uk: UkProvider) -> None:
    assert "GB-wales" == catalog(uk, default_zone="GB-wales").get("").id


@pytest.mark.parametrize(
    ("name", "near"), [("gb", "GB"), ("GB-londn", "GB-london"), ("xx-nowhere", ""), ("LONDON", "GB-london")]
)
def test_an_unknown_zone_names_the_near_matches(uk: UkProvider, name: str, near: str) -> None:
    with pytest.raises(UnknownZone) as caught:
        catalog(uk).get(name)

    assert name == caught.value.metadata["zone"]
    assert near == caught.value.metadata["near_matches"].split(",")[0]
    assert near in caught.value.message


@pytest.mark.parametrize("wrong", [{"default_zone": "DE"}, {"DE": 100.0}])
def test_a_setting_for_a_zone_that_nobody_covers_is_refused(uk: UkProvider, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="'DE'"):
        catalog(uk, **wrong)  # type: ignore[arg-type]


def test_providers_of_one_zone_have_to_give_the_same_signal(uk: UkProvider, clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="uk: average, replay: marginal"):
        catalog(uk, replay("GB", clock, signal=Signal.MARGINAL))
