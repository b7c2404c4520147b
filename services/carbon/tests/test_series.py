"""Series files: what is read, what is refused and how, and how a series is shifted in time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.series import read_series
from aegis_carbon.adapters.synthetic import SEED, START, STEP, ZONES, synthetic_week
from aegis_carbon.domain.intensity import MarginalIntensity, Quality
from aegis_carbon.testing.clock import ManualClock
from aegis_common.errors import ConfigurationError

HEAD = "# schema_version: 1\n# kind: actual\n# step_minutes: 30\n"
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def series_file(folder: Path, text: str, name: str = "series.csv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def week(kind: str) -> str:
    """A week whose value is the number of the slot."""
    rows = [f"{MONDAY + n * timedelta(minutes=30):%Y-%m-%dT%H:%MZ},{n}" for n in range(336)]
    return "\n".join([HEAD.replace("actual", kind) + "time,X", *rows, ""])


def test_the_packaged_series_is_what_the_generator_makes_from_its_seed() -> None:
    assert synthetic_week(SEED) == PACKAGED.read_text("utf-8")


def test_another_seed_makes_another_series() -> None:
    assert synthetic_week(SEED) != synthetic_week(SEED + 1)


def test_the_packaged_series_is_a_whole_week_labelled_synthetic() -> None:
    series = read_series(PACKAGED)

    assert (Quality.SYNTHETIC, START, START + timedelta(days=7)) == (series.kind, series.start, series.end)
    assert {zone.id: timedelta(days=7) // STEP for zone in ZONES} == {
        zone: len(values) for zone, values in series.values.items()
    }


def test_the_packaged_zones_do_what_their_names_say() -> None:
    values = {zone: series.values() for zone, series in read_series(PACKAGED).values.items()}

    assert max(values["demo-clean"]) < 150 < min(values["demo-dirty"])
    assert min(values["demo-day"]) < 150 < max(values["demo-day"])
    days = list(values["demo-day"])
    for day in range(7):  # every day has clean and dirty hours
        hours = days[48 * day : 48 * (day + 1)]
        assert min(hours) < 150 < max(hours)


async def test_a_series_repeats_so_that_weekday_and_time_of_day_match(
    tmp_path: Path, clock: ManualClock
) -> None:
    provider = ReplayProvider(read_series(series_file(tmp_path, week("synthetic"))), clock=clock)
    found = await provider.current("X")

    assert found is not None
    assert 2 * 48 + 20 == found.g_per_kwh  # Wednesday, 10:00
    assert clock.now.replace(minute=0) == found.start
    assert clock.now.replace(minute=30) == found.end
    assert (Quality.SYNTHETIC, "replay", clock.now) == (found.quality, found.source, found.fetched_at)


@pytest.mark.parametrize("weeks", [-300, -1, 0, 1, 300])
async def test_every_slot_of_a_week_is_found_in_any_other_week(
    tmp_path: Path, clock: ManualClock, weeks: int
) -> None:
    provider = ReplayProvider(read_series(series_file(tmp_path, week("actual"))), clock=clock)
    for slot in (0, 1, 47, 48, 200, 335):
        clock.now = MONDAY + timedelta(weeks=weeks, minutes=30 * slot + 29)
        found = await provider.current("X")

        assert found is not None
        assert slot == found.g_per_kwh
        assert found.covers(clock.now)


@pytest.mark.parametrize(("weeks", "quality"), [(0, Quality.ACTUAL), (1, Quality.FORECAST)])
async def test_a_measured_value_of_another_week_is_a_forecast(
    tmp_path: Path, clock: ManualClock, weeks: int, quality: Quality
) -> None:
    provider = ReplayProvider(read_series(series_file(tmp_path, week("actual"))), clock=clock)
    clock.now = MONDAY + timedelta(weeks=weeks, hours=1)
    found = await provider.current("X")

    assert found is not None
    assert quality == found.quality
    assert quality in provider.capabilities.qualities


async def test_a_gap_is_missing_and_a_zero_is_zero(tmp_path: Path, clock: ManualClock) -> None:
    text = HEAD + "time,X,Y\n2026-03-04T10:00Z,,0\n2026-03-04T10:30Z,5,\n"
    provider = ReplayProvider(read_series(series_file(tmp_path, text)), clock=clock)
    zero = await provider.current("Y")

    assert await provider.current("X") is None
    assert zero is not None
    assert 0 == zero.g_per_kwh


async def test_json_says_the_same_as_csv(tmp_path: Path, clock: ManualClock) -> None:
    body = {
        "schema_version": 1,
        "kind": "forecast",
        "signal": "marginal",
        "step_minutes": 60,
        "zones": {
            "X": {
                "display_name": "Ex",
                "points": [["2026-03-04T10:00:00+00:00", 12.5], ["2026-03-04T11:00Z", None]],
            }
        },
    }
    path = series_file(tmp_path, json.dumps(body), "series.json")
    provider = ReplayProvider(read_series(path), clock=clock)
    found = await provider.current("X")

    assert ["Ex"] == [zone.display_name for zone in provider.zones]
    assert isinstance(found, MarginalIntensity)
    assert (12.5, Quality.FORECAST) == (found.g_per_kwh, found.quality)
    assert timedelta(hours=1) == found.end - found.start


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD.replace("1\n", "9\n", 1) + "time,X\n2026-01-05T00:00Z,1\n", "schema_version 9"),
        (HEAD.replace("actual", "guess") + "time,X\n2026-01-05T00:00Z,1\n", "kind"),
        (HEAD.replace("30", "0") + "time,X\n2026-01-05T00:00Z,1\n", "step_minutes 0"),
        (HEAD.replace("# step_minutes: 30\n", "") + "time,X\n2026-01-05T00:00Z,1\n", "step_minutes"),
        (HEAD + "# signal: mean\ntime,X\n2026-01-05T00:00Z,1\n", "signal"),
        (HEAD, "header"),
        (HEAD + "when,X\n", "header"),
        (HEAD + "time,X\n", "no values"),
        (HEAD + "time,X\n2026-01-05T00:00Z,1,2\n", "line 5"),
        (HEAD + "time,X\nyesterday,1\n", "'yesterday'"),
        (HEAD + "time,X\n2026-01-05T00:00Z,much\n", "'much'"),
        (HEAD + "time,X\n2026-01-05T00:00Z,-1\n", "-1"),
        (HEAD + "time,X\n2026-01-05T00:00Z,nan\n", "nan"),
        (HEAD + "time,X\n2026-01-05T00:00Z,1\n2026-01-05T00:00Z,2\n", "twice"),
        (HEAD + "time,X\n2026-01-05T00:00Z,1\n2026-01-05T00:10Z,2\n", "not a multiple"),
    ],
)
def test_a_broken_csv_file_is_refused_by_name_and_fault(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=r"series\.csv") as caught:
        read_series(series_file(tmp_path, text))

    assert told in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", '{"zones": {"X": {}}}', '{"zones": {"X": {"points": [1]}}}'])
def test_a_broken_json_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="JSON form"):
        read_series(series_file(tmp_path, text, "series.json"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_series(tmp_path / "none.csv")
