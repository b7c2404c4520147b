"""What a run may become, and what it keeps of its rounds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from aegis_fl_coordinator.domain.errors import RunEnded
from aegis_fl_coordinator.domain.rounds import GateDecision, RoundReport
from aegis_fl_coordinator.domain.run import ENDED, RunSpec, State, TrainingRun

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def make_run(**changed: object) -> TrainingRun:
    run = TrainingRun(
        tenant="default",
        run_id="20261125-120000-0a1b2c",
        spec=RunSpec("digits", rounds=3, min_nodes=2),
        state=State.PENDING,
        message="accepted",
        creator="alice",
        principal="{}",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        app_sha256="c" * 64,
        token_sha256="",
        create_time=NOW,
    )
    return replace(run, **changed)  # type: ignore[arg-type]


def test_a_run_that_ended_moves_no_more() -> None:
    for state in ENDED:
        for target in set(State) - {state}:
            with pytest.raises(RunEnded):
                make_run(state=state).moved(target, "", now=NOW)


def test_every_state_that_has_not_ended_can_be_cancelled() -> None:
    for state in set(State) - ENDED - {State.CANCELLING}:
        assert make_run(state=state).moved(State.CANCELLING, "", now=NOW).state is State.CANCELLING


def test_a_run_that_is_being_stopped_does_not_start_another_round() -> None:
    with pytest.raises(RunEnded, match="cancelling and cannot become running"):
        make_run(state=State.CANCELLING).moved(State.RUNNING, "", now=NOW)


def test_only_the_end_has_an_end_time() -> None:
    run = make_run().moved(State.RUNNING, "", now=NOW)

    assert run.end_time is None
    assert run.moved(State.FAILED, "boom", now=NOW).end_time == NOW


def test_the_trace_id_is_that_of_the_creating_call() -> None:
    assert make_run().trace_id == "a" * 32


def test_an_open_gate_ends_the_wait_and_stays_with_its_round() -> None:
    decision = GateDecision(True, "BELOW_THRESHOLD", 90.0, 150.0, "replay")

    run = make_run(waiting_since=NOW).with_open_gate(1, decision, now=NOW)

    assert (run.state, run.message, run.waiting_since) == (State.RUNNING, "round 1 of 3", None)
    assert run.with_round(RoundReport(1), now=NOW).rounds[0].gate == decision


def test_a_round_that_is_reported_twice_counts_once() -> None:
    once = make_run().with_round(RoundReport(1, {"accuracy": 0.5}), now=NOW)

    assert once.with_round(RoundReport(1, {"accuracy": 0.9}), now=NOW) == once
