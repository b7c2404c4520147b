"""The steps of which the state machine of a job is made."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from aegis_agent.domain.jobs.errors import Fenced
from aegis_agent.domain.jobs.job import Failure, Job, Outcome, Phase, State, WaitReason
from aegis_agent.domain.usage import Usage


def check_current(job: Job, attempt: int) -> None:
    """Check that *attempt* still runs.

    Raises:
        Fenced: It does not.
    """
    if not job.runs or job.attempt != attempt:
        raise Fenced


def closed(job: Job, attempt: int, outcome: Outcome, failure: Failure | None, now: datetime) -> Job:
    """Return *job* with its current attempt ended.

    Raises:
        Fenced: *attempt* is not the current one.
    """
    check_current(job, attempt)
    last = replace(job.attempts[-1], ended=now, outcome=outcome, failure=failure)
    return replace(job, attempts=(*job.attempts[:-1], last), runner="", entry="")


def metered(job: Job, attempt: int, usage: Usage) -> Job:
    """Return *job* with what an attempt used, if that has ended and is the last one."""
    last = job.attempts[-1] if job.attempts else None
    if last is None or last.number != attempt or last.ended is None:
        return job
    return replace(job, attempts=(*job.attempts[:-1], replace(last, usage=usage)))


def ended(job: Job, state: State, failure: Failure | None, *, keep: timedelta, now: datetime) -> Job:
    return replace(
        without_wait(job),
        state=state,
        phase=None,
        failure=failure,
        runner="",
        entry="",
        ended=now,
        expires=now + keep,
    )


def deferred(job: Job, reason: WaitReason, until: datetime) -> Job:
    return replace(
        job,
        phase=Phase.DEFERRED,
        wait_reason=reason,
        wait_until=until,
        ask_carbon_at=None,
        runner="",
        entry="",
    )


def without_wait(job: Job) -> Job:
    return replace(job, wait_reason=None, wait_until=None, ask_carbon_at=None)
