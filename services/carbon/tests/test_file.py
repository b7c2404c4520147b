"""The provider `file`: what somebody else writes is read again, and what has not ended was not measured."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from aegis_carbon.adapters.file import FileProvider
from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.providers import ProviderError
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import NOW, ManualClock
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError

HEAD = "# schema_version: 1\n# kind: actual\n# step_minutes: 30\ntime,X\n"
HALF_HOUR = timedelta(minutes=30)
BEGUN = NOW - timedelta(minutes=12)
"""Start of the present slot."""


def write(path: Path, values: str, begin: datetime = BEGUN - HALF_HOUR) -> Path:
    """Write one slot of each of *values*, as `1 2 - 4`; a dash is a gap."""
    rows = [
        f"{(begin + n * HALF_HOUR).isoformat()},{value.strip('-')}" for n, value in enumerate(values.split())
    ]
    fresh = path.with_suffix(".new")
    fresh.write_text(HEAD + "\n".join(rows), "utf-8")
    return fresh.replace(path)


async def test_what_has_ended_was_measured_and_what_has_not_is_a_forecast(
    tmp_path: Path, clock: ManualClock
) -> None:
    provider = FileProvider(write(tmp_path / "grid.csv", "80 90 - 110"), clock=clock)
    now = await provider.current("X")
    past = await provider.past("X", NOW - timedelta(days=1), NOW)
    ahead = await provider.ahead("X")

    assert now is not None
    assert (90, Quality.FORECAST, "file", BEGUN) == (now.g_per_kwh, now.quality, now.source, now.start)
    assert [(80, Quality.ACTUAL)] == [(slot.g_per_kwh, slot.quality) for slot in past]
    assert [90, 110] == [slot.g_per_kwh for slot in ahead]
    assert {Quality.FORECAST} == {slot.quality for slot in ahead}


async def test_it_is_read_again_when_it_has_changed(tmp_path: Path, clock: ManualClock) -> None:
    path = write(tmp_path / "grid.csv", "80 90")
    provider = FileProvider(path, clock=clock)
    write(path, "80 70")
    again = await provider.current("X")

    assert again is not None
    assert 70 == again.g_per_kwh


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("half of it", "utf-8"),
        lambda path: path.unlink(),
        lambda path: path.write_text(path.read_text("utf-8").replace("time", "# signal: marginal\ntime")),
    ],
)
async def test_a_file_that_is_spoiled_later_is_a_failure_and_not_an_end(
    tmp_path: Path, clock: ManualClock, spoil: object
) -> None:
    assert callable(spoil)
    path = write(tmp_path / "grid.csv", "80 90")
    provider = FileProvider(path, clock=clock)
    spoil(path)

    with pytest.raises(ProviderError) as caught:
        await provider.current("X")
    assert ("MALFORMED", False) == (caught.value.fault, caught.value.retryable)


async def test_a_file_that_nobody_writes_any_more_is_stale_and_then_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = write(tmp_path / "grid.csv", "80 90")
    settings = IntensitySettings.model_validate({"providers": ["file"], "file": path})
    async with carbon(settings, clock=clock) as service:
        clock.move(hours=1)
        stale = await service.advisor.intensity("X", within=5)
        assert (90, Quality.STALE) == (stale.g_per_kwh, stale.quality)
        clock.move(days=1)
        with pytest.raises(NoIntensityData):
            await service.advisor.intensity("X", within=5)


async def test_without_a_path_it_says_which_variable_is_missing(clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="AEGIS_CARBON_FILE"):
        async with carbon(IntensitySettings.model_validate({"providers": ["file"]}), clock=clock):
            pass
