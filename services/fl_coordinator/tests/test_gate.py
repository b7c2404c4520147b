"""When a round may start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aegis_fl_coordinator.domain.gate import CarbonAnswer, CarbonPolicy, Wait, decide
from aegis_fl_coordinator.domain.rounds import GateDecision

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
