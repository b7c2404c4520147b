"""What only Electricity Maps does; the rest is in test_provider_contract.py."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from aegis_carbon.domain.intensity import AverageIntensity, Quality
from aegis_carbon.domain.providers import IntensityProvider, ProviderError
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.sources import Workshop, make_provider
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError

START = datetime(2026, 3, 4, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "zone": "DE",
        "carbonIntensity": 312,
        "datetime": "2026-03-04T10:00:00.000Z",
        "updatedAt": "2026-03-04T10:11:12.345Z",
        "emissionFactorType": "lifecycle",
        "isEstimated": False,
        "estimationMethod": None,
        **changes,
    }


def asked(api: UkApi) -> list[tuple[str, dict[str, str]]]:
    urls = [urlsplit(request.path) for request in api.requests]
    return [(url.path, dict(parse_qsl(url.query))) for url in urls]


def provider(api: UkApi, clock: ManualClock, tmp_path: Path, **about: Any) -> IntensityProvider:
    (tmp_path / "key").write_text("hush\n")
    told = {"url": f"{api.url}/v3", "key_file": tmp_path / "key", "zones": ["DE"], **about}
    settings = IntensitySettings.model_validate({"electricity_maps": told})
    return make_provider("electricity_maps", Workshop(settings, clock, AsyncExitStack()))


@pytest.mark.parametrize(("estimated", "quality"), [(False, Quality.ACTUAL), (True, Quality.FORECAST)])
async def test_the_latest_value_says_whether_it_was_measured(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path, estimated: bool, quality: Quality
) -> None:
    uk_api.default = Answer(row(isEstimated=estimated))
    found = await provider(uk_api, clock, tmp_path).current("DE")

    assert found == AverageIntensity("DE", 312, START, START + HOUR, quality, "electricity_maps", clock.now)


async def test_the_key_goes_into_its_header_and_the_fallback_to_the_callers_place_is_off(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> None:
    uk_api.default = Answer(row(zone="GB"))
    zones = {"britain": "GB"}
    made = provider(uk_api, clock, tmp_path, zones=zones, emission_factors="direct")
    found = await made.current("britain")

    assert found is not None
    assert "britain" == found.zone
    assert "hush" == uk_api.requests[0].headers["auth-token"]
    expected = {"zone": "GB", "emissionFactorType": "direct", "shouldUseFallbackCallerLookup": "false"}
    assert [("/v3/carbon-intensity/latest", expected)] == asked(uk_api)


async def test_the_last_day_and_longer_spans_are_asked_for_where_they_are(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> None:
    uk_api.default = Answer({})
    made = provider(uk_api, clock, tmp_path)
    await made.past("DE", clock.now - 24 * HOUR, clock.now)
    await made.past("DE", clock.now - timedelta(days=11), clock.now + HOUR)

    spans = [(path.rpartition("/")[2], query.get("start"), query.get("end")) for path, query in asked(uk_api)]
    assert [
        ("history", None, None),
        ("past-range", "2026-02-21T10:12:00Z", "2026-03-03T10:12:00Z"),
        ("past-range", "2026-03-03T10:12:00Z", "2026-03-04T10:12:00Z"),
    ] == spans


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_without_access_to_spans_still_gets_the_last_day(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path, status: int
) -> None:
    times = [START - hours * HOUR for hours in (20, 3, 2, 1)]
    rows = [row(datetime=time.isoformat(), carbonIntensity=number) for number, time in enumerate(times)]
    uk_api.script = [Answer(None, status)]
    uk_api.default = Answer({"zone": "DE", "history": rows})
    found = await provider(uk_api, clock, tmp_path).past("DE", START - timedelta(days=14), START - HOUR)

    assert [0, 1, 2] == [slot.g_per_kwh for slot in found]
    assert ["past-range", "history"] == [path.rpartition("/")[2] for path, _ in asked(uk_api)]


async def test_a_key_that_is_refused_everywhere_is_a_failure(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> None:
    uk_api.default = Answer(None, 401)
    with pytest.raises(ProviderError, match="HTTP_401"):
        await provider(uk_api, clock, tmp_path).past("DE", START - timedelta(days=14), START)


async def test_a_finer_step_is_taken_from_the_answer(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path
) -> None:
    rows = [{"carbonIntensity": 100, "datetime": "2026-03-04T10:15:00.000Z"}]
    uk_api.default = Answer({"zone": "DE", "forecast": rows, "temporalGranularity": "15_minutes"})
    found = await provider(uk_api, clock, tmp_path).ahead("DE")

    assert [timedelta(minutes=15)] == [slot.end - slot.start for slot in found]


@pytest.mark.parametrize("body", [row(zone="FR"), {"zone": "FR", "forecast": [row()]}])
async def test_an_answer_for_another_zone_is_refused(
    uk_api: UkApi, clock: ManualClock, tmp_path: Path, body: Any
) -> None:
    uk_api.default = Answer(body)
    made = provider(uk_api, clock, tmp_path)
    with pytest.raises(ProviderError, match=r"OTHER_ZONE.*DE.*FR"):
        await (made.ahead("DE") if "forecast" in body else made.current("DE"))


@pytest.mark.parametrize(
    ("text", "url", "told"),
    [
        (None, "https://em.example/v3", "cannot be read"),
        ("", "https://em.example/v3", "one line"),
        ("a\nb", "https://em.example/v3", "one line"),
        ("hush", "http://em.example/v3", "without TLS"),
    ],
)
async def test_a_key_that_cannot_be_used_stops_the_start(
    tmp_path: Path, text: str | None, url: str, told: str
) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    about = {"url": url, "key_file": tmp_path / "key", "zones": ["DE"]}
    settings = {"providers": ["electricity_maps"], "electricity_maps": about}
    with pytest.raises(ConfigurationError, match=f"AEGIS_CARBON_ELECTRICITY_MAPS__KEY_FILE.*{told}"):
        async with carbon(IntensitySettings.model_validate(settings)):
            pass
