"""The reservation of a job as a value: what follows from it, and what carbon is told."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

from services.agent.tests.job_values import KEEP, NOW, after, begun, failed, new

from aegis_agent.adapters.jobs.hold_notes import notes
from aegis_agent.adapters.jobs.records import from_record, to_record
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.explain import explanation
from aegis_agent.domain.jobs.grid import HORIZON, hold_deadline
from aegis_agent.domain.jobs.job import CarbonAnswer, CarbonPolicy, Hold, Job, Phase, WaitReason

POLICY = CarbonPolicy(max_wait=timedelta(seconds=60), duration=timedelta(seconds=4), pool="gpus")
HOLD = Hold(
    name="reservations/a",
    number=0,
    start_token=1,
    planned_start=after(40),
    latest_start=after(57),
    saving=0.25,
)


def answered(job: Job, *, now: float = 0, **fields: Any) -> Job | None:
    answer = {"run_now": False, "reason": "PLANNED", "asked": NOW, "retry_after": timedelta(seconds=15)}
    return machine.carbon_answered(job, CarbonAnswer(**{**answer, "hold": HOLD, **fields}), now=after(now))


def events(old: Job | None, new: Job) -> list[tuple[str, int]]:
    return [(note["event"], note["token"]) for note in map(json.loads, notes(old, new))]


def test_a_job_with_a_reservation_starts_when_told_or_at_the_earlier_latest_start() -> None:
    job = new(carbon=POLICY)
    waiting = answered(job)
    assert waiting is not None
    started = answered(waiting, now=40, run_now=True)
    due = machine.due(waiting, now=after(57))

    assert hold_deadline(job) == after(64)
    assert (waiting.latest_start, waiting.wait_until, waiting.ask_carbon_at) == (
        after(57),
        after(57),
        after(15),
    )
    assert any(
        "planned for 2026-01-31 12:00:40 UTC" in line for line in explanation(waiting, ahead=None, now=NOW)
    )
    assert started is not None
    assert due is not None
    assert started.phase is due.phase is Phase.QUEUED
    assert begun(due).hold == begun(started).hold is not None
    assert from_record(to_record(waiting), 0).hold == HOLD
    assert from_record(to_record(waiting), 0).spec == job.spec


def test_a_job_is_not_started_before_it_may_and_is_reserved_when_that_is_near_enough() -> None:
    early = new(carbon=POLICY, not_before=after(100))
    far = new(carbon=POLICY, not_before=NOW + timedelta(days=20))
    waiting = answered(early, run_now=True)

    assert early.ask_carbon_at == NOW
    assert far.ask_carbon_at == hold_deadline(far) - HORIZON > NOW
    assert waiting is not None
    assert (waiting.phase, waiting.wait_reason) == (Phase.DEFERRED, WaitReason.NOT_BEFORE)
    later = machine.asks_later(early, now=NOW)
    assert later is not None
    assert later.ask_carbon_at == after(100)
    assert machine.asks_later(new(carbon=POLICY), now=NOW) is None


def test_carbon_is_told_of_a_start_once_and_of_the_end() -> None:
    waiting = answered(new(carbon=POLICY))
    assert waiting is not None
    ready = machine.queued(waiting)
    runs = begun(ready)
    backoff = failed(runs)
    again = begun(machine.queued(backoff))
    end = machine.cancelled(again, again.attempt, keep=KEEP, now=NOW)
    given_up = machine.cancel_requested(waiting, keep=KEEP, now=NOW)
    assert given_up is not None

    steps = [waiting, ready, runs, backoff, again, end]
    assert [events(old, new) for old, new in pairwise(steps)] == [
        [],
        [("STARTED", 1)],
        [],
        [],
        [("FINISHED", 1)],
    ]
    assert events(waiting, given_up) == [("CANCELLED", 1)]


def test_a_reservation_that_comes_late_is_told_what_became_of_its_job() -> None:
    job = new(carbon=POLICY)
    runs = begun(machine.queued(job))
    gone = machine.cancel_requested(job, keep=KEEP, now=NOW)
    assert gone is not None
    late, too_late = answered(runs), answered(gone)
    assert late is not None
    assert too_late is not None
    retried = machine.retried(gone, principal="{}", deadline=None, now=NOW)
    anew = answered(retried)

    assert (late.phase, events(runs, late)) == (Phase.RUNNING, [("STARTED", 1)])
    assert events(gone, too_late) == [("CANCELLED", 1)]
    assert anew is not None
    assert anew.hold is None  # it belongs to the wait before
    assert notes(too_late, retried) == []
