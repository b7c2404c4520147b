"""Plans: strict deadlines, several zones, power, and what a plan may save."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_carbon.domain.intensity import Quality, Signal
from aegis_carbon.domain.job import Interruption, Job, Plan, PowerStep, Span
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.outlook import Outlook, outlook
from aegis_carbon.domain.planner import plan, plans
from aegis_carbon.testing.series import HALF_HOUR, MONDAY, series, weeks
from aegis_common.errors import InvalidArgument

HOUR = timedelta(hours=1)
START = MONDAY + timedelta(weeks=10)


def flat(values: list[float], *, zone: str = "DE", signal: Signal = Signal.AVERAGE) -> Outlook:
    row = series(values, start=START, zone=zone, signal=signal)
    return Outlook(series=row, low=row.values, high=row.values, errors=np.zeros((0, len(values))), parts=())


def job(deadline: float, duration: float, *, earliest: float = 0, **more: object) -> Job:
    at = [START + hours * HOUR for hours in (earliest, deadline)]
    return Job(earliest=at[0], deadline=at[1], duration=duration * HOUR, **more)  # type: ignore[arg-type]


def hours(*spans: tuple[float, float]) -> tuple[Span, ...]:
    return tuple(Span(START + a * HOUR, START + b * HOUR) for a, b in spans)


def test_the_cleanest_window_is_chosen_and_compared_with_starting_now() -> None:
    found = plan([flat([400, 400, 100, 100, 300, 300])], job(3, 1))

    assert hours((1, 2)) == found.spans
    assert (100, 400, 0.75) == (found.g_per_kwh, found.now_g_per_kwh, found.saving)
    assert (None, None) == (found.saving_low, found.saving_high)


def test_the_deadline_is_strict() -> None:
    assert hours((0, 1)) == plan([flat([300, 300, 100, 100])], job(1.4, 1, earliest=0)).spans[:0] + hours(
        (0, 1)
    )
    found = plan([flat([300, 200, 100, 100])], job(1.4, 1))

    assert hours((0.4, 1.4)) == found.spans


def test_a_job_without_slack_runs_at_once_and_one_with_less_is_refused() -> None:
    assert hours((0.1, 2)) == plan([flat([9] * 6)], job(2, 1.9, earliest=0.1)).spans
    with pytest.raises(InfeasibleJob, match="at the earliest") as caught:
        plan([flat([9] * 6)], job(2, 2.1))

    assert (START + 2.1 * HOUR).isoformat() == caught.value.metadata["earliest_finish"]


def test_an_outlook_that_ends_too_early_is_no_reason_to_guess() -> None:
    with pytest.raises(InfeasibleJob, match="outlook for zone 'DE' spans"):
        plan([flat([9] * 6)], job(4, 1))


def test_a_job_that_may_stop_takes_the_cleanest_hours() -> None:
    row = [100.0, 100, 900, 900, 100, 100]
    found = plan([flat(row)], job(3, 2, interruption=Interruption()))

    assert hours((0, 1), (2, 3)) == found.spans
    assert (100, 500) == (found.g_per_kwh, found.now_g_per_kwh)
    once = Interruption(max_interruptions=0)
    assert 1 == len(plan([flat(row)], job(3, 2, interruption=once)).spans)


def test_the_cleaner_zone_wins_and_of_equal_ones_the_first() -> None:
    rows = {"DE": [300.0] * 4, "FR": [50.0, 40, 40, 60], "SE": [40.0] * 4}
    zones = [flat(row, zone=zone) for zone, row in rows.items()]

    found = plan(zones, job(2, 1))

    assert ("FR", hours((0.5, 1.5))) == (found.zone, found.spans)
    assert (40, 300) == (found.g_per_kwh, found.now_g_per_kwh)


def test_zones_of_different_signals_are_not_compared() -> None:
    zones = [flat([3] * 4), flat([2] * 4, zone="US", signal=Signal.MARGINAL)]

    with pytest.raises(InvalidArgument, match="DE: average, US: marginal"):
        plan(zones, job(2, 1))


def test_the_hungry_part_of_a_job_runs_while_the_grid_is_clean() -> None:
    power = (PowerStep(HOUR, 0.1), PowerStep(HOUR, 10.0))

    found = plan([flat([100, 100, 500, 500, 100, 100, 500, 500])], job(4, 2, power=power))

    assert hours((1, 3)) == found.spans
    assert (0.1 * 500 + 10 * 100) / 10.1 == pytest.approx(found.g_per_kwh)


def test_a_power_profile_that_does_not_fit_the_job_is_refused() -> None:
    outlooks = [flat([1] * 8)]

    with pytest.raises(InvalidArgument, match="do not add up to 2:00:00"):
        plan(outlooks, job(4, 2, power=(PowerStep(HOUR, 1.0),)))
    with pytest.raises(InvalidArgument, match="cannot be interrupted"):
        plan(outlooks, job(4, 1, power=(PowerStep(HOUR, 1.0),), interruption=Interruption()))


def expected(now: datetime) -> Outlook:
    past = series(weeks(10, noise=8.0))
    known = Known(series=past, source="grid", quality=Quality.ACTUAL, issued_at=now)
    return outlook(known, None, now=now, until=now + timedelta(days=2))


def test_the_saving_has_a_band_that_comes_from_past_errors() -> None:
    found = plan([expected(START)], job(24, 4))

    assert found.saving_low is not None
    assert found.saving_high is not None
    assert found.saving_low < found.saving < found.saving_high
    assert found.saving > 0.05


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 500), min_size=10, max_size=10),
    st.floats(0, 1.5),
    st.floats(0.01, 2.5),
    st.floats(0, 0.9),
    st.sampled_from(
        [None, Interruption(), Interruption(min_chunk=HALF_HOUR, resume_overhead=timedelta(minutes=4))]
    ),
)
def test_no_plan_leaves_its_window_or_is_worse_than_now(
    row: list[float], earliest: float, duration: float, slack: float, interruption: Interruption | None
) -> None:
    begin, length = START + earliest * HOUR, duration * HOUR
    deadline = begin + length + slack * HOUR
    asked = Job(earliest=begin, deadline=deadline, duration=length, interruption=interruption)

    found = plan([flat(row)], asked)

    assert asked.earliest <= found.spans[0].start
    assert found.spans[-1].end <= asked.deadline
    run = sum((span.end - span.start for span in found.spans), timedelta(0))
    assert run >= asked.duration - timedelta(milliseconds=1)
    assert found.saving >= -1e-9


def test_a_batch_gets_what_each_job_would_get_alone() -> None:
    chance = np.random.default_rng(5)
    outlooks = {"DE": expected(START), "FR": flat([50.0] * 96, zone="FR")}
    jobs = []
    for number in range(60):
        earliest, duration, slack = (float(value) for value in chance.uniform(0, 9, 3).round(2))
        interruption = Interruption(max_interruptions=2) if number % 10 == 9 else None
        zones = ("DE", "FR") if number % 10 == 8 else ("DE",)
        deadline = earliest + duration + slack
        asked = job(deadline, duration + 0.01, earliest=earliest - 0.01, interruption=interruption)
        jobs.append((zones, asked))
    jobs[0] = (("DE",), job(1, 2))
    jobs[1] = (("DE",), job(60, 2))

    together = plans(outlooks, jobs)

    assert [InfeasibleJob, InfeasibleJob] == [type(found) for found in together[:2]]
    for found, (zones, asked) in zip(together[2:], jobs[2:], strict=True):
        if asked.earliest < START:
            assert isinstance(found, InfeasibleJob)
            continue
        alone = plan([outlooks[zone] for zone in zones], asked)
        assert isinstance(found, Plan)
        assert (alone.zone, alone.spans) == (found.zone, found.spans)
        for name in ("g_per_kwh", "now_g_per_kwh", "saving", "saving_low", "saving_high"):
            values = getattr(alone, name), getattr(found, name)
            assert values == (None, None) or values[0] == pytest.approx(values[1], rel=1e-9)


def test_a_batch_of_thousands_is_quicker_than_one_by_one() -> None:
    outlooks = {"DE": expected(START)}
    jobs = [(("DE",), job(10 + number % 14, 1 + number % 7)) for number in range(2000)]
    plans(outlooks, jobs[:10])

    begin = time.perf_counter()
    together = plans(outlooks, jobs)
    middle = time.perf_counter()
    for zones, asked in jobs[:200]:
        plan([outlooks[zone] for zone in zones], asked)
    end = time.perf_counter()

    assert 2000 == len(together)
    assert (middle - begin) / 2000 < (end - middle) / 200
