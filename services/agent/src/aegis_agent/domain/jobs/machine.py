"""The state machine of a job: each function returns the job after one thing has happened to it.

    DEFERRED -> QUEUED -> RUNNING -> COMPLETED | FAILED | CANCELLED
        ^----------^---------'  another attempt, or handed back

Whoever ends an attempt says which one: a runner whose attempt is no longer the current one is fenced off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_agent.domain.errors import UnknownTool
from aegis_agent.domain.jobs.errors import Fenced, JobDeadline, JobNotRetryable, WorkerLost
from aegis_agent.domain.jobs.grid import HORIZON, begin_of, hold_deadline, latest_start, latest_with
from aegis_agent.domain.jobs.job import (
    KEPT_ATTEMPTS,
    MAX_LOSSES,
    AttemptRecord,
    CarbonAnswer,
    Failure,
    Job,
    Outcome,
    Phase,
    State,
    WaitReason,
)
from aegis_agent.domain.jobs.retry import backoff
from aegis_agent.domain.jobs.steps import closed, deferred, ended, without_wait

TOOL_MISSING: Final = timedelta(minutes=1)
"""How long a job waits for a tool that nobody has: a remote worker, or a plugin, may be on its way back."""


def accepted(job: Job, *, now: datetime) -> Job:
    """Return a new or retried job in its first place: deferred, or in the queue."""
    spec = job.spec
    latest = latest_start(spec, job.created)
    job = replace(job, latest_start=latest)
    begin = spec.not_before
    if latest is not None and latest > now:
        early = begin is not None and begin > now
        ask = max(now, hold_deadline(job) - HORIZON) if spec.reserves else begin
        return replace(
            job,
            phase=Phase.DEFERRED,
            wait_reason=WaitReason.NOT_BEFORE if early else WaitReason.CARBON,
            wait_until=latest,
            ask_carbon_at=ask if early else now,
        )
    if begin is not None and begin > now:
        return deferred(job, WaitReason.NOT_BEFORE, begin)
    return queued(job)


def queued(job: Job) -> Job:
    """Return the job in the queue of its class, with a number that no older entry there has."""
    return replace(
        without_wait(job),
        phase=Phase.QUEUED,
        runner="",
        entry="",
        queue_number=job.queue_number + 1,
    )


def keeps_place(old: Job | None, new: Job) -> bool:
    """Whether a job that comes into the queue goes before those that came after it: it was only put back."""
    return old is not None and (old.phase is Phase.QUEUED or old.runs) and new.losses == old.losses


def due(job: Job, *, now: datetime) -> Job | None:
    """Return the job in the queue if its wait is over, else None."""
    ready = job.phase is Phase.DEFERRED and job.wait_until is not None and job.wait_until <= now
    return queued(job) if ready else None


def carbon_answered(job: Job, answer: CarbonAnswer, *, now: datetime) -> Job | None:
    """Return the job after the carbon service was asked; None if it does not wait for it any more.

    A reservation that comes when the job has gone on by itself is kept with it, to be told what became of it.
    """
    hold = answer.hold if answer.hold is not None and answer.hold.number == job.waits else None
    latest = job.latest_start
    if job.phase is not Phase.DEFERRED or job.ask_carbon_at is None or latest is None:
        late = hold is not None and job.hold is None
        return replace(job, hold=replace(hold, started=job.runs)) if hold is not None and late else None
    job = replace(job, carbon_answer=replace(answer, hold=None))
    begin = begin_of(job)
    if hold is not None:
        latest = latest_with(job, hold)
        job = replace(job, hold=hold, latest_start=latest, wait_until=latest)
    if (answer.run_now and begin <= now) or latest <= now:
        return queued(job)
    return replace(
        job,
        wait_reason=WaitReason.NOT_BEFORE if begin > now else WaitReason.CARBON,
        ask_carbon_at=min(now + answer.retry_after, latest),
    )


def asks_later(job: Job, *, now: datetime) -> Job | None:
    """Return a job that has no reservation, and whose grid is not asked about before it may start at all."""
    begin = begin_of(job)
    waits = job.phase is Phase.DEFERRED and job.ask_carbon_at is not None and begin > now
    return replace(job, ask_carbon_at=begin) if waits else None


def withdrawn(job: Job, failure: Failure, *, now: datetime) -> Job | None:
    """Return a new job that is refused after all, about to be deleted; None if it has been started."""
    if job.has_ended or job.runs or job.attempt:
        return None
    return ended(job, State.FAILED, failure, keep=timedelta(0), now=now)


def started(
    job: Job,
    *,
    runner: str,
    entry: str,
    queue_number: int,
    idempotent: bool,
    tool_version: str,
    now: datetime,
) -> Job:
    """Return the job with a new attempt. Only when this is on disk may the tool be started.

    Raises:
        Fenced: It is not in the queue under that number.
    """
    if job.phase is not Phase.QUEUED or job.queue_number != queue_number:
        raise Fenced
    attempt = AttemptRecord(number=job.attempt + 1, runner=runner, started=now)
    return replace(
        job,
        phase=Phase.RUNNING,
        runner=runner,
        entry=entry,
        attempt=attempt.number,
        attempts=(*job.attempts, attempt)[-KEPT_ATTEMPTS:],
        started=job.started or now,
        idempotent=idempotent,
        tool_version=tool_version,
        hold=replace(job.hold, started=True) if job.hold is not None else None,
        hand_backs=0,
        obstacle=None,
        tool_missed=None,
    )


def postponed(
    job: Job, queue_number: int, *, after: timedelta, now: datetime, why: Failure | None = None
) -> Job:
    """Return a job that was taken out of the queue and not started: it waits for a while, or in the queue.

    Args:
        job: The job.
        queue_number: Under which it was taken.
        after: How long it waits; 0 puts it into the queue again.
        now: The present moment.
        why: What kept it from being started; None when it was only put back.

    Raises:
        Fenced: It is not in the queue under that number.
    """
    if job.phase is not Phase.QUEUED or job.queue_number != queue_number:
        raise Fenced
    missed = why is not None and why.reason == UnknownTool.reason
    job = replace(
        job,
        hand_backs=job.hand_backs + 1,
        obstacle=why,
        tool_missed=(job.tool_missed or now) if missed else None,
    )
    return deferred(job, WaitReason.TOOL_BUSY, now + after) if after else queued(job)


def may_find_tool(job: Job, *, now: datetime) -> bool:
    """Whether a job whose tool is not there waits for it still."""
    return job.tool_missed is None or now - job.tool_missed < TOOL_MISSING


def refused(job: Job, queue_number: int, failure: Failure, *, keep: timedelta, now: datetime) -> Job:
    """Return a job failed that was taken out of the queue and cannot be started at all.

    Raises:
        Fenced: It is not in the queue under that number.
    """
    if job.phase is not Phase.QUEUED or job.queue_number != queue_number:
        raise Fenced
    return ended(job, State.FAILED, failure, keep=keep, now=now)


def completed(
    job: Job, attempt: int, *, model_version: str, warnings: Sequence[str], keep: timedelta, now: datetime
) -> Job:
    """Return the job with its result.

    Raises:
        Fenced: *attempt* is not the current one.
    """
    job = closed(job, attempt, Outcome.SUCCEEDED, None, now)
    job = replace(job, model_version=model_version, warnings=tuple(warnings))
    return ended(job, State.COMPLETED, None, keep=keep, now=now)


def failed(job: Job, attempt: int, failure: Failure, *, share: float, keep: timedelta, now: datetime) -> Job:
    """Return the job after a failed attempt: ended, or waiting for another.

    Args:
        job: The job.
        attempt: The attempt that failed.
        failure: Its error.
        share: 0 to 1, at random: spreads the next attempts of jobs that failed together.
        keep: How long an ended job is kept.
        now: The present moment.

    Raises:
        Fenced: *attempt* is not the current one.
    """
    cancelling = job.phase is Phase.CANCELLING
    job = closed(job, attempt, Outcome.CANCELLED if cancelling else Outcome.FAILED, failure, now)
    if cancelling:
        return ended(job, State.CANCELLED, None, keep=keep, now=now)
    job = replace(job, failures=job.failures + 1)
    policy = job.spec.retry
    if failure.retryable and job.idempotent and job.failures < policy.max_attempts:
        again = now + backoff(policy, job.failures, share=share)
        if job.spec.deadline is None or again < job.spec.deadline:
            return deferred(job, WaitReason.BACKOFF, again)
    return ended(job, State.FAILED, failure, keep=keep, now=now)


def handed_back(job: Job, attempt: int, *, keep: timedelta, now: datetime) -> Job:
    """Return the job in the queue again after an attempt whose code did not run, or may run again.

    One that somebody cancelled meanwhile has ended.

    Raises:
        Fenced: *attempt* is not the current one.
    """
    if job.phase is Phase.CANCELLING:
        return cancelled(job, attempt, keep=keep, now=now)
    return queued(closed(job, attempt, Outcome.HANDED_BACK, None, now))


def cancelled(job: Job, attempt: int, *, keep: timedelta, now: datetime) -> Job:
    """Return the job after its work was stopped because somebody cancelled it.

    Raises:
        Fenced: *attempt* is not the current one.
    """
    job = closed(job, attempt, Outcome.CANCELLED, None, now)
    return ended(job, State.CANCELLED, None, keep=keep, now=now)


def lost(job: Job, *, keep: timedelta, now: datetime, why: str = "") -> Job | None:
    """Return the job after its runner was lost: ended, or in the queue again; None when it does not run.

    Args:
        job: The job.
        keep: How long an ended job is kept.
        now: The present moment.
        why: What became of the runner, for the message.
    """
    if not job.runs:
        return None
    if job.phase is Phase.CANCELLING:
        job = closed(job, job.attempt, Outcome.CANCELLED, None, now)
        return ended(job, State.CANCELLED, None, keep=keep, now=now)
    what = why or f"the agent process {job.runner!r} that ran it gave no sign of life"
    failure = Failure.of(
        WorkerLost(
            f"attempt {job.attempt} was lost: {what}",
            runner=job.runner,
            attempt=str(job.attempt),
            idempotent=str(job.idempotent).lower(),
        )
    )
    job = closed(job, job.attempt, Outcome.LOST, failure, now)
    job = replace(job, losses=job.losses + 1)
    if job.idempotent and job.losses <= MAX_LOSSES:
        return queued(job)
    return ended(job, State.FAILED, failure, keep=keep, now=now)


def never_started(job: Job, queue_number: int, *, keep: timedelta, now: datetime) -> Job:
    """Return a job that was taken out of the queue by a runner that was lost before it started the job.

    It is queued again, but not for ever: it may be what ends its runners.

    Raises:
        Fenced: It is not in the queue under that number.
    """
    if job.phase is not Phase.QUEUED or job.queue_number != queue_number:
        raise Fenced
    job = replace(job, losses=job.losses + 1)
    if job.losses <= MAX_LOSSES:
        return queued(job)
    failure = Failure.of(
        WorkerLost(
            f"{job.losses} agent processes that took the job gave no sign of life, the last ones before its "
            "tool was started",
            losses=str(job.losses),
        )
    )
    return ended(job, State.FAILED, failure, keep=keep, now=now)


def cancel_requested(job: Job, *, keep: timedelta, now: datetime) -> Job | None:
    """Return the job after somebody cancelled it: ended if it waited; None when nothing changes."""
    if job.has_ended or job.phase is Phase.CANCELLING:
        return None
    if job.phase is Phase.RUNNING:
        return replace(job, phase=Phase.CANCELLING)
    return ended(job, State.CANCELLED, None, keep=keep, now=now)


def deadline_over(job: Job, *, keep: timedelta, now: datetime) -> Job | None:
    """Return the job failed if it has not started by its deadline; None otherwise."""
    deadline = job.spec.deadline
    if job.has_ended or job.runs or deadline is None or deadline > now:
        return None
    failure = Failure.of(JobDeadline.of(deadline, started=False))
    return ended(job, State.FAILED, failure, keep=keep, now=now)


def retried(job: Job, *, principal: str, deadline: datetime | None, now: datetime) -> Job:
    """Return a failed or cancelled job as a new one, for whoever retries it: its waits are not over by that.

    Raises:
        JobNotRetryable: It completed, has not ended, or its deadline is over or before its `not_before`.
    """
    if job.state not in (State.FAILED, State.CANCELLED):
        what = "completed" if job.state is State.COMPLETED else "has not ended"
        raise JobNotRetryable(
            f"job {job.job_id!r} {what}; only one that failed or was cancelled is retried",
            job=job.job_id,
            state=job.state.name,
        )
    spec = replace(job.spec, deadline=deadline or job.spec.deadline)
    if spec.deadline is not None and spec.deadline <= now:
        raise JobNotRetryable(
            f"the deadline {spec.deadline.isoformat()} is over; give a new one",
            job=job.job_id,
            deadline=spec.deadline.isoformat(),
        )
    if spec.deadline is not None and spec.not_before is not None and spec.deadline <= spec.not_before:
        raise JobNotRetryable(
            f"the deadline {spec.deadline.isoformat()} is before not_before, {spec.not_before.isoformat()}",
            job=job.job_id,
            deadline=spec.deadline.isoformat(),
            not_before=spec.not_before.isoformat(),
        )
    again = replace(
        job,
        spec=spec,
        principal=principal,
        hold=None,
        waits=job.waits + 1,
        state=State.WORKING,
        failure=None,
        failures=0,
        losses=0,
        hand_backs=0,
        obstacle=None,
        tool_missed=None,
        ended=None,
        expires=None,
    )
    return accepted(again, now=now)
