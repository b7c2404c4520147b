"""The provider `http`: APIs of any shape, described by settings, each over a real HTTP connection."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aegis_carbon.domain.intensity import AverageIntensity, MarginalIntensity, Quality
from aegis_carbon.domain.providers import IntensityProvider, ProviderError
from aegis_carbon.settings import IntensitySettings, Settings
from aegis_carbon.sources import Workshop, make_provider
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError
from aegis_common.settings import load
from aegis_common.testing.pki import Mesh

START = datetime(2026, 3, 4, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROW = {"value": "g", "start": "at"}


def http(api: UkApi, clock: ManualClock, **about: Any) -> IntensityProvider:
    """Make the provider as the service does; a question that is text stands for its URL."""
    asked = {
        name: {"url": value, **ROW}
        if isinstance(value, str) and name in ("current", "past", "ahead")
        else value
        for name, value in about.items()
    }
    described = {"zones": ["DE"], "step": 3600, **asked}
    settings = IntensitySettings.model_validate({"api_url": api.url, "http": described})
    return make_provider("http", Workshop(settings, clock, AsyncExitStack()))


def row(hours: float, value: Any, **more: Any) -> dict[str, Any]:
    return {"at": (START + hours * HOUR).isoformat(), "g": value, **more}


async def test_a_row_is_read_where_the_settings_say(uk_api: UkApi, clock: ManualClock) -> None:
    uk_api.default = Answer(
        {
            "result": [
                {
                    "DE": {
                        "slots": [{"t": {"from": START.timestamp(), "to": "2026-03-04T10:15Z"}, "v": "1000"}]
                    }
                }
            ]
        }
    )
    question = {
        "url": "/now",
        "rows": "result.0.{zone}.slots",
        "value": "v",
        "start": "t.from",
        "end": "t.to",
    }
    provider = http(uk_api, clock, current=question, step=None, unit="lb/MWh", signal="marginal")
    expected = MarginalIntensity(
        "DE", 453.59237, START, START + timedelta(minutes=15), Quality.ACTUAL, "http", clock.now
    )

    assert expected == await provider.current("DE")


async def test_the_url_says_zone_and_span(uk_api: UkApi, clock: ManualClock) -> None:
    uk_api.default = Answer([])
    provider = http(
        uk_api,
        clock,
        zones={"north": "DE/50 hertz"},
        past="/zones/{zone}/past?from={start}&to={end}",
        longest_span="P1D",
    )
    await provider.past("north", clock.now - timedelta(days=2), clock.now + HOUR)

    assert [
        "/zones/DE%2F50%20hertz/past?from=2026-03-02T10:12:00Z&to=2026-03-03T10:12:00Z",
        "/zones/DE%2F50%20hertz/past?from=2026-03-03T10:12:00Z&to=2026-03-04T10:12:00Z",
    ] == [request.path for request in uk_api.requests]


async def test_times_can_be_asked_for_in_seconds_since_1970(uk_api: UkApi, clock: ManualClock) -> None:
    uk_api.default = Answer([])
    await http(uk_api, clock, ahead="/f?a={start}&b={end}", time_format="epoch", horizon=60).ahead("DE")

    assert [f"/f?a={clock.now.timestamp():.0f}&b={clock.now.timestamp() + 60:.0f}"] == [
        request.path for request in uk_api.requests
    ]


async def test_what_was_not_measured_is_labelled_a_forecast(uk_api: UkApi, clock: ManualClock) -> None:
    question = {"url": "/past", **ROW, "estimated": "guess"}
    uk_api.default = Answer([row(-3, 1, guess=True), row(-2, 2, guess=False)])
    found = await http(uk_api, clock, past=question).past("DE", START - 9 * HOUR, START)

    assert [Quality.FORECAST, Quality.ACTUAL] == [slot.quality for slot in found]


@pytest.mark.parametrize(
    ("questions", "quality"),
    [({"ahead": "/f", "past": "/p"}, Quality.FORECAST), ({"past": "/p"}, Quality.ACTUAL)],
)
async def test_without_a_url_for_it_the_present_is_that_of_forecast_or_past(
    uk_api: UkApi, clock: ManualClock, questions: dict[str, str], quality: Quality
) -> None:
    uk_api.default = Answer([row(1, 3), row(0, 2), row(-1, 1)])
    found = await http(uk_api, clock, **questions).current("DE")

    assert found == AverageIntensity("DE", 2.0, START, START + HOUR, quality, "http", clock.now)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("data", [1]),
        ("data", {"other": []}),
        ("data", {"data": 5}),
        ("0", {"x": 1}),
        ("", "text"),
        ("a.b", {"a": None}),
    ],
)
async def test_an_answer_of_another_shape_is_malformed(
    uk_api: UkApi, clock: ManualClock, path: str, body: Any
) -> None:
    uk_api.default = Answer(body)
    with pytest.raises(ProviderError, match="MALFORMED"):
        await http(uk_api, clock, current={"url": "/now", "rows": path, **ROW}).current("DE")


async def test_the_key_is_sent_in_the_header_that_is_named(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("Token hush\n")
    uk_api.default = Answer([])
    await http(uk_api, clock, current="/now", header="x-key", header_file=str(tmp_path / "key")).current("DE")

    assert ["Token hush"] == [request.headers["x-key"] for request in uk_api.requests]


@pytest.mark.parametrize("url", ["http://grid.example/now", "/now"])
async def test_the_key_does_not_travel_without_tls(tmp_path: Path, url: str) -> None:
    (tmp_path / "key").write_text("hush")
    about = {"current": {"url": url, **ROW}, "step": 3600, "zones": ["DE"], "header_file": tmp_path / "key"}
    settings = {"providers": ["http"], "api_url": "http://mirror.example", "http": about}
    with pytest.raises(ConfigurationError, match="without TLS") as caught:
        async with carbon(IntensitySettings.model_validate(settings)):
            pass

    assert "hush" not in caught.value.message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"http": None}, "needs AEGIS_CARBON_HTTP"),
        ({"api_url": ""}, "CARBON_API_URL is not set"),
    ],
)
async def test_a_description_that_is_missing_in_part_stops_the_start(
    changes: dict[str, Any], told: str
) -> None:
    about = {"current": {"url": "/now", **ROW}, "step": 3600, "zones": ["DE"]}
    settings = {"providers": ["http"], "api_url": "https://grid.example", "http": about, **changes}
    with pytest.raises(ConfigurationError, match=told):
        async with carbon(IntensitySettings.model_validate(settings)):
            pass


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"current": None}, "names no URL"),
        ({"step": None}, "nor a step"),
        ({"zones": []}, "at least 1"),
        ({"zones": ["D E"]}, "no zone id"),
        ({"unit": "t/MWh"}, "unit"),
        ({"signal": "percentile"}, "signal"),
        ({"step": "P2D"}, "step"),
        ({"current": {"url": "https://x.example/{place}", **ROW}}, "placeholder"),
        ({"current": {"url": "https://x.example/{}", **ROW}}, "placeholder"),
        ({"current": {"url": "https://x.example/{zone!r}", **ROW}}, "placeholder"),
        ({"current": {"url": "https://{zone}.example/", **ROW}}, "no fixed host"),
        ({"current": {"url": "//x.example/", **ROW}}, "is not a URL"),
        ({"current": {"url": "", **ROW}}, "no fixed host"),
        ({"current": {"url": "https://me:hush@x.example/", **ROW}}, "user or password"),
    ],
)
def test_a_wrong_description_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    about = {"current": {"url": "/now", **ROW}, "step": 3600, "zones": ["DE"], **changes}
    with pytest.raises(ValueError, match=told):
        IntensitySettings.model_validate({"http": about})


async def test_any_carbon_api_url_works_by_variables_alone(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        **Mesh(tmp_path).service_env("AEGIS_CARBON_", "carbon"),
        "CARBON_API_URL": uk_api.url,
        "AEGIS_CARBON_PROVIDERS": "http,replay",
        "AEGIS_CARBON_HTTP": '{"zones": {"SE4": "4"}, "step": 3600, "signal": "average"}',
        "AEGIS_CARBON_HTTP__UNIT": "kg/MWh",
        "AEGIS_CARBON_HTTP__CURRENT": '{"url": "/v9/{zone}", "rows": "r", "value": "g", "start": "at"}',
    }.items():
        monkeypatch.setenv(name, value)
    uk_api.default = Answer({"r": row(0, 23)})
    async with carbon(load(Settings), clock=clock) as built:
        found = await built.lookup.current(built.catalog.get(""), within=5)

    assert ("SE4", 23.0, "http") == (found.zone, found.g_per_kwh, found.source)
    assert ["/v9/4"] == [request.path for request in uk_api.requests]
