"""A replay that runs faster than time: a day in a minute."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.series import read_series
from aegis_carbon.domain.planning import JobRequest, Planned
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.wiring import carbon
from aegis_common.errors import ConfigurationError

MINUTE = timedelta(minutes=1)
SLOT = timedelta(seconds=1.25)


async def test_a_day_passes_in_a_minute(clock: ManualClock) -> None:
    slow = ReplayProvider(read_series(PACKAGED), clock=clock)
    fast = ReplayProvider(read_series(PACKAGED), clock=clock, speed=1440)
    seen = []
    for _ in range(7 * 48):
        found = await fast.current("demo-day")
        assert found is not None
        assert found.covers(clock.now)
        assert SLOT == found.end - found.start
        seen.append(found.g_per_kwh)
        clock.now += SLOT
    week = await slow.past("demo-day", clock.now - timedelta(days=7), clock.now)

    assert sorted(seen) == sorted(slot.g_per_kwh for slot in week)
    assert MINUTE == fast.capabilities.day


async def test_its_past_is_what_it_said_before(clock: ManualClock) -> None:
    fast = ReplayProvider(read_series(PACKAGED), clock=clock, speed=1440)
    before = await fast.current("demo-day")
    clock.now += 3 * MINUTE
    past = await fast.past("demo-day", clock.now - 4 * MINUTE, clock.now)

    assert before is not None
    assert [before.g_per_kwh] == [slot.g_per_kwh for slot in past if slot.start == before.start]


async def test_forecasts_and_plans_keep_its_pace(clock: ManualClock) -> None:
    settings = IntensitySettings(providers=("replay",), replay_speed=1440)
    async with carbon(settings, clock=clock) as built:
        planning = built.planning
        expected = await planning.forecast("demo-day", horizon=None, within=5)
        request = JobRequest(zones=("demo-day",), duration=timedelta(seconds=5), max_wait=MINUTE)
        planned = await planning.plan(request, within=5)
        measured = []
        for slot in range(len(expected.series.values)):
            clock.now = expected.series.start + slot * SLOT
            found = await built.lookup.current(built.catalog.get("demo-day"), within=1)
            measured.append(found.g_per_kwh)

    error = np.abs(expected.series.values[:48] - measured[:48]).mean()
    assert SLOT == expected.series.step
    assert error < 0.15 * np.mean(measured)
    assert planned.plan.saving > 0.2
    assert planned.plan.spans[0].end <= planned.job.deadline


@pytest.mark.parametrize(
    ("changes", "told"), [({"replay_speed": 7}, "does not divide"), ({"replay_speed": 0}, "greater")]
)
async def test_a_speed_that_cannot_be_kept_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=told):
        async with carbon(IntensitySettings(providers=("replay",), **changes)):
            pass


async def test_time_that_goes_on_while_a_plan_is_made_makes_no_job_infeasible(clock: ManualClock) -> None:
    settings = IntensitySettings(providers=("replay",), replay_speed=1440)

    def ticking() -> datetime:
        clock.now += timedelta(seconds=1)
        return clock.now

    async with carbon(settings, clock=ticking) as built:
        planning = built.planning
        request = JobRequest(zones=("demo-day",), duration=timedelta(seconds=9), max_wait=timedelta(0))
        alone = await planning.plan(request, within=5)
        together = await planning.plans([request], within=5)

    assert alone.job.earliest == alone.plan.spans[0].start
    assert isinstance(together[0], Planned)
