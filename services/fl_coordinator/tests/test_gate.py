"""When a round may start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.gate import CarbonAnswer, CarbonPolicy, RoundForecast, Wait, decide
from aegis_fl_coordinator.domain.grids import Site, combined, shares
from aegis_fl_coordinator.domain.rounds import GateDecision, RoundReport, ZoneShare

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
POLICY = CarbonPolicy(max_wait=timedelta(minutes=10))
CLEAN = CarbonAnswer(True, True, "BELOW_THRESHOLD", 90.0, 150.0, "replay")
DIRTY = CarbonAnswer(False, False, "ABOVE_THRESHOLD", 400.0, 150.0, "replay", timedelta(minutes=5))
NO_DATA = CarbonAnswer(True, False, "NO_DATA", None, 150.0, "")


def test_a_clean_grid_lets_the_round_in() -> None:
    decision = decide(CLEAN, POLICY, since=NOW, now=NOW)

    assert decision == GateDecision(True, "BELOW_THRESHOLD", 90.0, 150.0, "replay", timedelta())


def test_a_dirty_grid_holds_the_round_and_says_until_when() -> None:
    decision = decide(DIRTY, POLICY, since=NOW, now=NOW)

    assert isinstance(decision, Wait)
    assert decision.message == (
        "the grid is at 400 gCO2e/kWh, the threshold is 150; "
        "the round starts at 2026-11-25 12:10:00 UTC at the latest"
    )


def test_the_coordinator_asks_again_before_the_longest_wait_is_over() -> None:
    decision = decide(DIRTY, POLICY, since=NOW, now=NOW + timedelta(minutes=9, seconds=50))

    assert isinstance(decision, Wait)
    assert decision.retry_after == timedelta(seconds=10)


@pytest.mark.parametrize(("window", "expected"), [(4, 4), (400, 10), (0, 10), (-1, 10)])
def test_the_coordinator_is_there_when_a_clean_window_begins(window: float, expected: float) -> None:
    told = answer(300, retry_after=timedelta(seconds=10), next_window=NOW + timedelta(seconds=window))
    decision = decide(told, CarbonPolicy(max_wait=timedelta(hours=1)), since=NOW, now=NOW)

    assert isinstance(decision, Wait)
    assert timedelta(seconds=expected) == decision.retry_after


def test_after_the_longest_wait_the_round_starts_anyway_and_the_report_says_so() -> None:
    waited = timedelta(minutes=10)

    decision = decide(DIRTY, POLICY, since=NOW, now=NOW + waited)

    assert decision == GateDecision(False, "MAX_WAIT", 400.0, 150.0, "replay", waited)


def test_a_wait_of_zero_starts_at_once() -> None:
    decision = decide(DIRTY, CarbonPolicy(max_wait=timedelta()), since=NOW, now=NOW)

    assert isinstance(decision, GateDecision)
    assert decision.reason == "MAX_WAIT"


def test_a_carbon_service_without_a_value_is_not_called_clean() -> None:
    assert decide(NO_DATA, POLICY, since=NOW, now=NOW) == GateDecision(
        False, "NO_DATA", None, 150.0, "", timedelta()
    )


def test_a_dead_carbon_service_holds_nothing_up() -> None:
    waited = timedelta(minutes=1)

    decision = decide(None, POLICY, since=NOW, now=NOW + waited)

    assert decision == GateDecision(False, "CARBON_UNAVAILABLE", waited=waited)


def test_the_wait_of_all_rounds_together_has_a_limit_of_its_own() -> None:
    policy = CarbonPolicy(max_wait=timedelta(minutes=10), max_total_wait=timedelta(minutes=12))
    before = [RoundReport(1, gate=GateDecision(False, "MAX_WAIT", waited=timedelta(minutes=10)))]

    waiting = decide(DIRTY, policy, since=NOW, now=NOW + timedelta(minutes=1), rounds=before)
    over = decide(DIRTY, policy, since=NOW, now=NOW + timedelta(minutes=2), rounds=before)

    assert isinstance(waiting, Wait)
    assert waiting.message.endswith("the round starts at 2026-11-25 12:02:00 UTC at the latest")
    assert isinstance(over, GateDecision)
    assert over.reason == "MAX_TOTAL_WAIT"


def test_a_policy_has_one_rule() -> None:
    with pytest.raises(InvalidRunConfig, match="has percentile and forecast; a policy has one rule"):
        CarbonPolicy(percentile=20, forecast=RoundForecast()).check()


def test_a_round_takes_as_long_as_those_before_or_as_the_policy_says() -> None:
    done = [RoundReport(1, duration=timedelta(minutes=2)), RoundReport(2, duration=timedelta(minutes=4))]

    assert CarbonPolicy().round_duration([]) == timedelta(minutes=10)
    assert CarbonPolicy().round_duration(done) == timedelta(minutes=3)
    assert CarbonPolicy(forecast=RoundForecast(timedelta(hours=1))).round_duration(done) == timedelta(hours=1)


def test_power_that_a_site_does_not_declare_is_that_of_the_others() -> None:
    declared = shares([Site("zones/PL", 300), Site("zones/FR", 100), Site("zones/FR")])

    assert declared == {"zones/PL": 0.5, "zones/FR": 0.5}
    assert shares([Site(), Site("zones/FR"), Site("zones/FR")]) == {"": 1 / 3, "zones/FR": 2 / 3}


def answer(intensity: float | None, *, run_now: bool = False, **changed: Any) -> CarbonAnswer:
    values: dict[str, Any] = {"threshold": 200.0, "source": "uk", **changed}
    return CarbonAnswer(run_now, run_now, "WORD", intensity, **values)


def test_the_mean_of_the_zones_is_held_against_the_mean_threshold() -> None:
    parts = {"zones/PL": 0.25, "zones/FR": 0.75}

    clean = combined({"zones/PL": answer(600), "zones/FR": answer(50, run_now=True)}, parts)
    dirty = combined({"zones/PL": answer(700), "zones/FR": answer(50, run_now=True)}, parts)

    assert clean is not None
    assert dirty is not None
    assert (clean.run_now, clean.clean, clean.intensity, clean.threshold) == (True, True, 187.5, 200)
    assert (dirty.run_now, dirty.clean, dirty.intensity) == (False, False, 212.5)
    assert clean.zones == (ZoneShare("zones/FR", 0.75, 50), ZoneShare("zones/PL", 0.25, 600))


def test_by_forecast_the_zones_with_most_of_the_power_decide() -> None:
    parts = {"a": 0.4, "b": 0.6}
    waits = answer(300, threshold=None, next_window=NOW)

    found = combined({"a": answer(300, run_now=True, threshold=None), "b": waits}, parts)

    assert found is not None
    assert (found.run_now, found.next_window) == (False, NOW)


def test_a_zone_without_a_value_does_not_count_and_is_named() -> None:
    found = combined({"a": None, "b": answer(100, run_now=True)}, {"a": 0.9, "b": 0.1})

    assert found is not None
    assert (found.run_now, found.intensity) == (True, 100)
    assert found.zones == (ZoneShare("a", 0.9, None), ZoneShare("b", 0.1, 100))
    assert combined({"a": None}, {"a": 1.0}) is None
