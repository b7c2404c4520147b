"""Jobs as values: states, fences, retries, waits and shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from services.agent.tests.job_values import BAD_INPUT, CRASH, KEEP, NOW, after, begun, failed, new

from aegis_agent.domain.call import Priority
from aegis_agent.domain.errors import UnknownTool
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import Fenced, JobNotRetryable
from aegis_agent.domain.jobs.explain import explanation
from aegis_agent.domain.jobs.job import (
    KEPT_ATTEMPTS,
    MAX_LOSSES,
    CarbonAnswer,
    CarbonPolicy,
    Failure,
    Job,
    Outcome,
    Phase,
    RetryPolicy,
    State,
    WaitReason,
)
from aegis_agent.domain.jobs.retry import backoff
from aegis_agent.domain.jobs.shares import TURNS
from aegis_common.errors import ErrorKind


def test_a_job_goes_from_the_queue_to_its_result() -> None:
    job = new()
    running = begun(job)
    done = machine.completed(running, 1, model_version="m", warnings=["w"], keep=KEEP, now=after(2))

    assert (job.phase, job.queue_number, job.attempt) == (Phase.QUEUED, 1, 0)
    assert (running.phase, running.attempt, running.runner, running.entry) == (Phase.RUNNING, 1, "r1", "1-0")
    assert (done.state, done.phase, done.ended, done.expires) == (
        State.COMPLETED,
        None,
        after(2),
        after(2) + KEEP,
    )
    assert (done.attempts[0].outcome, done.runner, done.entry) == (Outcome.SUCCEEDED, "", "")


@pytest.mark.parametrize("number", [0, 2])
def test_a_queue_entry_of_another_time_starts_nothing(number: int) -> None:
    with pytest.raises(Fenced):
        machine.started(
            new(), runner="r", entry="1", queue_number=number, idempotent=True, tool_version="", now=NOW
        )


def test_a_runner_whose_attempt_is_over_is_fenced_off() -> None:
    first = begun(new())
    lost = machine.lost(first, keep=KEEP, now=NOW)
    assert lost is not None
    second = begun(lost, runner="r2", entry="2-0")

    for job in (lost, second, machine.cancelled(second, 2, keep=KEEP, now=NOW)):
        with pytest.raises(Fenced):
            machine.completed(job, 1, model_version="", warnings=(), keep=KEEP, now=NOW)
        with pytest.raises(Fenced):
            machine.failed(job, 1, CRASH, share=0, keep=KEEP, now=NOW)
        with pytest.raises(Fenced):
            machine.handed_back(job, 1, keep=KEEP, now=NOW)
        with pytest.raises(Fenced):
            machine.cancelled(job, 1, keep=KEEP, now=NOW)


def test_a_crash_is_followed_by_attempts_until_there_are_no_more() -> None:
    job = new(attempts=2)
    waiting = failed(begun(job))
    ready = machine.due(waiting, now=after(1))
    assert ready is not None
    dead = failed(begun(ready))

    assert (waiting.phase, waiting.wait_reason, waiting.wait_until) == (
        Phase.DEFERRED,
        WaitReason.BACKOFF,
        after(1),
    )
    assert machine.due(waiting, now=after(0.9)) is None
    assert (dead.state, dead.failure, dead.dead_letter) == (State.FAILED, CRASH, True)
    assert [item.outcome for item in dead.attempts] == [Outcome.FAILED, Outcome.FAILED]


@pytest.mark.parametrize(
    ("job", "failure"),
    [
        (new(), BAD_INPUT),
        (new(idempotent=False, attempts=1), CRASH),
        (new(deadline=after(0.5)), CRASH),
        (new(), replace(CRASH, kind=ErrorKind.FAILED_PRECONDITION, reason="TOOL_OUTPUT_TOO_LARGE")),
        (new(), replace(CRASH, kind=ErrorKind.FAILED_PRECONDITION, reason="TOOL_FAILED")),
        (new(), replace(CRASH, kind=ErrorKind.DEADLINE_EXCEEDED, reason="TOOL_TIMEOUT")),
    ],
)
def test_what_another_attempt_would_not_mend_fails_at_once(job: Job, failure: Failure) -> None:
    assert failed(begun(job), failure).state is State.FAILED


@pytest.mark.parametrize(
    "kind", [ErrorKind.UNAVAILABLE, ErrorKind.RESOURCE_EXHAUSTED], ids=lambda kind: kind.name
)
def test_what_is_away_or_exhausted_is_tried_again(kind: ErrorKind) -> None:
    assert failed(begun(new()), replace(CRASH, kind=kind, reason="X")).phase is Phase.DEFERRED


def test_a_lost_runner_ends_a_job_that_must_not_start_again() -> None:
    job = machine.lost(begun(new(idempotent=False)), keep=KEEP, now=NOW)

    assert job is not None
    assert job.failure is not None
    assert (job.state, job.failure.reason, job.failure.kind) == (
        State.FAILED,
        "WORKER_LOST",
        ErrorKind.ABORTED,
    )
    assert (job.dead_letter, job.attempts[0].outcome) == (True, Outcome.LOST)


def test_a_lost_runner_does_not_count_as_an_attempt_but_not_for_ever() -> None:
    job = new(attempts=1)
    for _ in range(MAX_LOSSES):
        lost = machine.lost(begun(job), keep=KEEP, now=NOW)
        assert lost is not None
        assert (lost.phase, lost.failures) == (Phase.QUEUED, 0)
        job = lost
    last = machine.lost(begun(job), keep=KEEP, now=NOW)

    assert last is not None
    assert last.state is State.FAILED
    assert machine.lost(last, keep=KEEP, now=NOW) is None


def test_only_the_last_attempts_are_remembered() -> None:
    job = new()
    for _ in range(KEPT_ATTEMPTS + 5):
        running = begun(job)
        job = machine.handed_back(running, running.attempt, keep=KEEP, now=NOW)

    assert [item.number for item in job.attempts] == list(range(6, KEPT_ATTEMPTS + 6))
    assert job.attempts_begun == 0


def test_a_cancelled_job_ends_or_is_being_stopped() -> None:
    waiting = machine.cancel_requested(new(), keep=KEEP, now=NOW)
    stopping = machine.cancel_requested(begun(new()), keep=KEEP, now=NOW)

    assert waiting is not None
    assert stopping is not None
    assert (waiting.state, stopping.phase) == (State.CANCELLED, Phase.CANCELLING)
    assert machine.cancel_requested(waiting, keep=KEEP, now=NOW) is None
    assert machine.cancel_requested(stopping, keep=KEEP, now=NOW) is None
    lost = machine.lost(stopping, keep=KEEP, now=NOW)
    assert lost is not None
    handed_back = machine.handed_back(stopping, 1, keep=KEEP, now=NOW)
    ends = (machine.cancelled(stopping, 1, keep=KEEP, now=NOW), failed(stopping), lost, handed_back)
    assert {job.state for job in ends} == {State.CANCELLED}


def test_a_job_waits_a_minute_for_a_tool_that_is_not_there() -> None:
    missing = Failure.of(UnknownTool.named("t", []))
    busy = replace(CRASH, kind=ErrorKind.RESOURCE_EXHAUSTED, reason="TOOL_QUEUE_FULL")

    def again(job: Job, why: Failure, at: float) -> Job:
        job = machine.postponed(job, job.queue_number, after=timedelta(seconds=1), now=after(at), why=why)
        ready = machine.due(job, now=after(at + 1))
        assert ready is not None
        return ready

    job = new()
    for number in range(9):
        job = again(job, busy, number)
    job = again(job, missing, 10)
    assert (job.obstacle, job.tool_missed) == (missing, after(10))
    assert explanation(job, ahead=0, now=NOW)[0].startswith("Waits for its tool, which was not there")
    told = explanation(
        machine.postponed(job, job.queue_number, after=KEEP, now=after(11), why=missing), ahead=None, now=NOW
    )
    assert told[0].startswith("Waits for its tool to be there, until")
    assert told[1] == f"When its turn came last: UNKNOWN_TOOL: {missing.message}."
    job = again(job, missing, 60)
    assert machine.may_find_tool(job, now=after(69))
    assert not machine.may_find_tool(job, now=after(71))
    assert machine.may_find_tool(again(job, busy, 70), now=after(71))
    assert begun(job).tool_missed is None


def test_a_deadline_ends_what_has_not_started() -> None:
    job = new(deadline=after(5))

    assert machine.deadline_over(job, keep=KEEP, now=after(4)) is None
    assert machine.deadline_over(begun(job), keep=KEEP, now=after(6)) is None
    over = machine.deadline_over(job, keep=KEEP, now=after(5))
    assert over is not None
    assert over.failure is not None
    assert (over.state, over.failure.reason) == (State.FAILED, "JOB_DEADLINE")


def test_a_retried_job_starts_anew_and_remembers() -> None:
    dead = failed(begun(new(attempts=1)))
    again = machine.retried(dead, principal="bob", deadline=None, now=NOW)

    assert (again.state, again.phase, again.failures, again.principal) == (
        State.WORKING,
        Phase.QUEUED,
        0,
        "bob",
    )
    assert (again.attempts, again.queue_number, again.expires) == (dead.attempts, 2, None)
    for job in (
        again,
        begun(again),
        machine.completed(begun(new()), 1, model_version="", warnings=(), keep=KEEP, now=NOW),
    ):
        with pytest.raises(JobNotRetryable):
            machine.retried(job, principal="bob", deadline=None, now=NOW)
    late = failed(begun(new(attempts=1, deadline=after(5))))
    with pytest.raises(JobNotRetryable):
        machine.retried(late, principal="bob", deadline=None, now=after(6))
    assert machine.retried(late, principal="bob", deadline=after(9), now=after(6)).spec.deadline == after(9)


def test_a_retried_job_waits_for_its_time_as_a_new_one_does() -> None:
    def cancelled(**spec: Any) -> Job:
        job = machine.cancel_requested(new(**spec), keep=KEEP, now=NOW)
        assert job is not None
        return job

    def again(job: Job, *, deadline: datetime | None = None, at: float = 1.0) -> Job:
        return machine.retried(job, principal="bob", deadline=deadline, now=after(at))

    early, clean = cancelled(not_before=after(60)), cancelled(carbon=CarbonPolicy())
    waiting, green = again(early), again(clean)

    assert (waiting.phase, waiting.wait_reason, waiting.wait_until) == (
        Phase.DEFERRED,
        WaitReason.NOT_BEFORE,
        after(60),
    )
    assert (green.wait_reason, green.ask_carbon_at) == (WaitReason.CARBON, after(1))
    assert again(early, at=61).phase is Phase.QUEUED
    assert again(clean, at=3601).phase is Phase.QUEUED
    with pytest.raises(JobNotRetryable):
        again(early, deadline=after(30))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, 3600),
        ({"carbon": CarbonPolicy(max_wait=timedelta(seconds=60))}, 60),
        ({"deadline": after(1000)}, 1000 - 11 - 5),
        ({"deadline": after(1000), "carbon": CarbonPolicy(max_wait=timedelta(seconds=60))}, 60),
        ({"not_before": after(100), "carbon": CarbonPolicy(max_wait=timedelta(seconds=60))}, 160),
        ({"deadline": after(10)}, 0),
        ({"carbon": CarbonPolicy(max_wait=timedelta(0))}, 0),
    ],
)
def test_the_latest_start_is_kept_whatever_the_grid_is_like(spec: dict[str, Any], expected: int) -> None:
    job = new(**{"carbon": CarbonPolicy(), **spec})

    assert job.latest_start == after(expected)
    if expected:
        assert (job.phase, job.wait_until) == (Phase.DEFERRED, after(expected))
        ready = machine.due(job, now=after(expected))
        assert ready is not None
        assert ready.phase is Phase.QUEUED
    else:
        assert job.phase is Phase.QUEUED


def test_the_carbon_service_starts_a_job_early_or_is_asked_again() -> None:
    job = new(carbon=CarbonPolicy())
    wait = CarbonAnswer(
        run_now=False, reason="ABOVE_THRESHOLD", asked=NOW, intensity=300, retry_after=timedelta(seconds=20)
    )
    go = CarbonAnswer(run_now=True, reason="BELOW_THRESHOLD", asked=NOW, intensity=90, threshold=150)
    waiting = machine.carbon_answered(job, wait, now=after(10))
    ready = machine.carbon_answered(job, go, now=after(10))
    last = machine.carbon_answered(job, wait, now=after(3590))

    assert waiting is not None
    assert ready is not None
    assert last is not None
    assert (waiting.phase, waiting.ask_carbon_at) == (Phase.DEFERRED, after(30))
    assert (ready.phase, ready.carbon_answer) == (Phase.QUEUED, go)
    assert last.ask_carbon_at == after(3600)
    assert machine.carbon_answered(ready, go, now=NOW) is None
    assert any("300 gCO2e/kWh" in line for line in explanation(waiting, ahead=None, now=NOW))
    assert any(
        "starts by itself at 2026-01-31 13:00:00" in line
        for line in explanation(waiting, ahead=None, now=NOW)
    )


def test_backoff_doubles_up_to_its_bound() -> None:
    policy = RetryPolicy(initial_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=5))

    assert [backoff(policy, number, share=1.0).total_seconds() for number in (1, 2, 3, 4, 500)] == [
        1,
        2,
        4,
        5,
        5,
    ]
    assert backoff(policy, 1, share=0.0).total_seconds() == 0.5


def test_of_ten_turns_each_lower_class_has_one_first() -> None:
    assert Counter(turn[0] for turn in TURNS) == {
        Priority.HIGH: 8,
        Priority.NORMAL: 1,
        Priority.LOW: 1,
    }
