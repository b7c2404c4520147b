"""Settings: the original variables, the service's own, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from aegis_carbon.adapters.replay import PACKAGED
from aegis_carbon.settings import IntensitySettings, Settings
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError
from aegis_common.settings import load
from aegis_common.testing.pki import Mesh


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """All that a service needs."""
    for name, value in Mesh(tmp_path).service_env("AEGIS_CARBON_", "carbon").items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_original_variables_are_understood(environment: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CARBON_API_URL": "https://mirror.example",
        "CARBON_API_KEY": "key",
        "CARBON_CACHE_TTL": "600",
        "CARBON_INTENSITY_THRESHOLD": "90.5",
        "REDIS_URL": "redis://one",
        "LOG_LEVEL": "DEBUG",
    }.items():
        environment.setenv(name, value)

    for settings in (load(Settings), IntensitySettings()):
        assert "https://mirror.example" == settings.uk_api
        assert "key" == settings.key()
        assert timedelta(minutes=10) == settings.cache_ttl
        assert 90.5 == settings.intensity_threshold
        assert "redis://one" == settings.redis_url.get_secret_value()
        assert "redis://one" == settings.cache_url
    assert "DEBUG" == load(Settings).log_level


def test_the_cache_has_a_redis_of_its_own_where_one_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REDIS_URL", "redis://jobs")
    environment.setenv("AEGIS_CACHE_REDIS_URL", "redis://cache")

    for settings in (load(Settings), IntensitySettings()):
        assert "redis://cache" == settings.cache_url
        assert "redis://jobs" == settings.redis_url.get_secret_value()


def test_the_services_own_variable_wins(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CARBON_CACHE_TTL", "600")
    environment.setenv("AEGIS_CARBON_CACHE_TTL", "PT1M")

    for settings in (load(Settings), IntensitySettings()):
        assert timedelta(minutes=1) == settings.cache_ttl


def test_lists_and_maps_are_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AEGIS_CARBON_PROVIDERS", "replay, uk")
    environment.setenv("AEGIS_CARBON_ZONE_THRESHOLDS", '{"GB": 100}')
    settings = load(Settings)

    assert ("replay", "uk") == settings.providers
    assert {"GB": 100.0} == settings.zone_thresholds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARBON_API_URL", "ftp://x"),
        ("CARBON_API_URL", "https://[mirror"),
        ("CARBON_API_URL", "https://"),
        ("CARBON_API_URL", "https://me:hush@mirror.example"),
        ("CARBON_CACHE_TTL", "soon"),
        ("CARBON_CACHE_TTL", "0"),
        ("CARBON_INTENSITY_THRESHOLD", "-1"),
        ("CARBON_INTENSITY_THRESHOLD", "5001"),
        ("REDIS_URL", "http://x"),
        ("AEGIS_CARBON_PROVIDERS", "uk,uk"),
        ("AEGIS_CARBON_PROVIDERS", "moon"),
        ("AEGIS_CARBON_ZONE_THRESHOLDS", '{"GB": 0}'),
        ("AEGIS_CARBON_MAX_STALE", "P3D"),
        ("AEGIS_CARBON_TRESHOLD", "1"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load(Settings)

    assert name in caught.value.message


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CARBON_API_KEY", "hush-key")
    environment.setenv("REDIS_URL", "redis://:hush-password@host")
    environment.setenv("CARBON_API_URL", "https://mirror.example")
    settings = load(Settings)

    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_wrong_secret_is_not_shown_either(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REDIS_URL", "hush-password")
    with pytest.raises(ConfigurationError) as caught:
        load(Settings)

    assert "hush" not in caught.value.message


def test_the_key_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from the file\n")
    settings = IntensitySettings(api_url="https://mirror.example", api_key_file=tmp_path / "key")

    assert "from the file" == settings.key()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "takes no key"),
        ("https://api.carbonintensity.org.uk/", "takes no key"),
        ("http://mirror.example", "without TLS"),
        ("http://127.0.0.1.example", "without TLS"),
    ],
)
def test_a_key_goes_only_where_it_is_wanted_and_safe(url: str, told: str) -> None:
    settings = IntensitySettings.model_validate({"api_url": url, "api_key": "hush"})
    with pytest.raises(ConfigurationError, match=told):
        settings.key()


@pytest.mark.parametrize("key", ["hush\nhush", "hush\r", "h\u00fcsh"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    settings = IntensitySettings.model_validate({"api_url": "https://mirror.example", "api_key": key})
    with pytest.raises(ConfigurationError, match="CARBON_API_KEY is not one line") as caught:
        settings.key()

    assert "sh" not in caught.value.message.replace("line of plain text", "")


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="AEGIS_CARBON_API_KEY_FILE"):
        IntensitySettings(api_key_file=tmp_path / "none").key()


@pytest.mark.parametrize(
    ("changes", "zone"),
    [
        ({}, "demo-day"),
        ({"api_url": "https://mirror.example"}, "GB"),
        ({"api_url": "https://mirror.example", "providers": ["replay"]}, "demo-day"),
        ({"providers": ["uk"]}, "GB"),
        ({"default_zone": "GB-wales"}, "GB-wales"),
    ],
)
async def test_the_default_zone_follows_from_what_is_configured(
    changes: dict[str, object], zone: str
) -> None:
    async with carbon(IntensitySettings.model_validate(changes)) as built:
        assert [zone] == [found.id for found in built.advisor.zones() if found.default]


async def test_the_first_zone_of_ones_own_series_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(PACKAGED.read_text("utf-8").replace("demo-", "own-"), "utf-8")
    async with carbon(IntensitySettings(replay_file=path)) as built:
        assert ["own-clean"] == [found.id for found in built.advisor.zones() if found.default]


@pytest.mark.parametrize(
    "changes",
    [
        {"default_zone": "mars"},
        {"zone_thresholds": {"mars": 1}},
        {"replay_file": "/nonexistent/series.csv"},
        {"cache_redis_url": "redis://host:port"},
    ],
)
async def test_what_does_not_fit_stops_the_start(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        async with carbon(IntensitySettings.model_validate(changes)):
            pass
