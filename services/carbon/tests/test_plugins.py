"""Providers of other packages, which stand on the path as pip would put them there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError

LUNAR = """
from datetime import timedelta

from aegis_carbon.domain.intensity import MarginalIntensity, Quality, Signal
from aegis_carbon.domain.providers import Capabilities, ProviderZone


class Lunar:
    name = "lunar"
    capabilities = Capabilities(live=True, qualities=frozenset({Quality.ACTUAL}))

    def __init__(self, kit):
        self._api = kit.api(kit.options["url"], {"x-key": "k"})
        self._clock = kit.clock
        self.zones = (ProviderZone("moon", "Moon", Signal.MARGINAL),)

    async def current(self, zone):
        value = (await self._api.get("now"))["value"]
        now = self._clock()
        end = now + timedelta(minutes=5)
        return MarginalIntensity(zone, value, now, end, Quality.ACTUAL, "lunar", now)

    async def past(self, zone, start, end):
        return []

    async def ahead(self, zone):
        return []


def liar(kit):
    made = Lunar(kit)
    made.name = "solar"
    return made


def broken(kit):
    raise RuntimeError("no fuel")


nothing = None
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what puts a package with entry points there; its module has a name of its own in each test."""

    def done(entries: str, *, package: str = "lunar") -> None:
        module = f"{package}_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{module}.py").write_text(LUNAR)
        about = tmp_path / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = entries.replace("MODULE", module)
        (about / "entry_points.txt").write_text(f"[aegis.carbon.providers]\n{lines}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return done


def settings(url: str = "http://127.0.0.1:9", **changes: Any) -> IntensitySettings:
    options = {"lunar": {"url": url}}
    return IntensitySettings.model_validate(
        {"providers": ["lunar", "replay"], "provider_options": options, **changes}
    )


async def test_an_installed_provider_is_asked_by_its_name_and_again_when_it_fails(
    install: Install, uk_api: UkApi, clock: ManualClock
) -> None:
    install("lunar = MODULE:Lunar")
    uk_api.script = [Answer(None, 500)]
    uk_api.default = Answer({"value": 42})
    async with carbon(settings(uk_api.url), clock=clock) as built:
        zone = built.catalog.get("")
        found = await built.lookup.current(zone, within=5)

    assert ("moon", 42, "lunar") == (found.zone, found.g_per_kwh, found.source)
    assert Signal.MARGINAL is zone.signal
    assert ["/now", "/now"] == [request.path for request in uk_api.requests]
    assert "k" == uk_api.requests[0].headers["x-key"]


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("lunar = MODULE:absent", "cannot be made.*absent"),
        ("lunar = no_such_module:provider", "cannot be made.*no_such_module"),
        ("lunar = MODULE:nothing", "cannot be made.*not callable"),
        ("lunar = MODULE:broken", "cannot be made.*no fuel"),
        ("lunar = MODULE:liar", "calls itself 'solar'"),
    ],
)
async def test_one_that_cannot_be_made_stops_the_start_by_its_name(
    install: Install, entries: str, told: str
) -> None:
    install(entries)
    with pytest.raises(ConfigurationError, match=f"'lunar'.*{told}"):
        async with carbon(settings()):
            pass


async def test_two_packages_with_the_same_name_are_refused(install: Install) -> None:
    install("lunar = MODULE:Lunar")
    install("lunar = MODULE:liar", package="lunar_too")
    with pytest.raises(ConfigurationError, match=r"Lunar.*liar|liar.*Lunar"):
        async with carbon(settings()):
            pass


async def test_one_that_is_not_named_is_not_loaded(install: Install) -> None:
    install("lunar = no_such_module:provider")
    async with carbon(IntensitySettings()) as built:
        assert "moon" not in [zone.id for zone in built.catalog.all()]


async def test_options_for_nobody_are_refused(install: Install) -> None:
    install("lunar = MODULE:Lunar")
    with pytest.raises(ConfigurationError, match="options for 'lunar'"):
        async with carbon(settings(providers=["replay"])):
            pass


def test_a_name_that_nobody_installed_is_refused_with_those_that_there_are(install: Install) -> None:
    install("lunar = MODULE:Lunar")
    with pytest.raises(ValueError, match=r"no provider 'mars'.*uk.*replay.*lunar"):
        IntensitySettings.model_validate({"providers": ["mars"]})
