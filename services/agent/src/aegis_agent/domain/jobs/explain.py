"""Why a job is where it is, in words."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aegis_agent.domain.jobs.job import (
    AttemptRecord,
    CarbonAnswer,
    Hold,
    Job,
    Outcome,
    Phase,
    State,
    WaitReason,
)

_WAITS: Final = {
    WaitReason.NOT_BEFORE: "waits for its not_before",
    WaitReason.CARBON: "waits for a cleaner grid",
    WaitReason.BACKOFF: "waits before another attempt",
    WaitReason.TOOL_BUSY: "waits for the tool to have room",
}
_OUTCOMES: Final = {
    Outcome.SUCCEEDED: "gave a result",
    Outcome.FAILED: "failed",
    Outcome.LOST: "was lost with its runner",
    Outcome.CANCELLED: "was stopped",
    Outcome.HANDED_BACK: "was handed back",
}


def message(job: Job) -> str:
    """Return why the job stands where it does, in one sentence."""
    if job.state is State.COMPLETED:
        return f"completed in attempt {job.attempt}"
    if job.state is State.FAILED:
        return job.failure.message if job.failure else "failed"
    if job.state is State.CANCELLED:
        return "cancelled"
    if job.phase is Phase.DEFERRED:
        what = _WAITS[job.wait_reason] if job.wait_reason else "waits"
        if job.tool_missed is not None:
            what = "waits for its tool to be there"
        return f"{what}, until {_time(job.wait_until)} at the latest" if job.wait_until else what
    if job.phase is Phase.QUEUED and job.tool_missed is not None:
        return "waits for its tool, which was not there when its turn came last"
    if job.phase is Phase.QUEUED:
        return "waits for a free slot"
    what = "is being stopped" if job.phase is Phase.CANCELLING else "runs"
    return f"attempt {job.attempt} {what} on {job.runner}"


def explanation(job: Job, *, ahead: int | None, now: datetime) -> list[str]:
    """Return what has happened and what comes next, in sentences.

    Args:
        job: The job.
        ahead: Jobs of its tenant and class that wait before it; None when it does not wait for a slot.
        now: The present moment.
    """
    lines = [f"{_sentence(message(job))}"]
    if job.phase is Phase.QUEUED:
        lines.append(_place(job, ahead))
    if job.obstacle is not None and not job.has_ended:
        lines.append(_sentence(f"when its turn came last: {job.obstacle.reason}: {job.obstacle.message}"))
    lines += _carbon(job)
    lines += [_attempt(item) for item in job.attempts]
    lines += _outlook(job, now)
    return lines


def _place(job: Job, ahead: int | None) -> str:
    if ahead is None:
        return "An agent process has it in hand and is about to start it."
    jobs = "1 job" if ahead == 1 else f"{ahead or 'no'} jobs"
    return f"Of your tenant and priority {job.spec.priority.name}, {jobs} became ready before it."


def _measured(answer: CarbonAnswer) -> str:
    value = "no intensity" if answer.intensity is None else f"{answer.intensity:.0f} gCO2e/kWh"
    limit = "" if answer.threshold is None else f", threshold {answer.threshold:.0f}"
    return f"{answer.reason}: {value}{limit}"


def _held(hold: Hold) -> str:
    if hold.planned_start is None:
        return f"It has {hold.name}, without a plan."
    saving = "" if hold.saving is None else f", expected saving {hold.saving:.0%}"
    return f"It has {hold.name}, planned for {_time(hold.planned_start)}{saving}."


def _carbon(job: Job) -> list[str]:
    lines = [] if job.hold is None else [_held(job.hold)]
    answer = job.carbon_answer
    if answer is not None:
        verdict = "start" if answer.run_now else "wait"
        plain = job.spec.reserves and answer.intensity is None and answer.threshold is None
        why = answer.reason if plain else _measured(answer)
        lines.append(f"The carbon service said to {verdict} at {_time(answer.asked)} ({why}).")
    if job.phase is Phase.DEFERRED and job.latest_start is not None and job.ask_carbon_at is not None:
        lines.append(
            f"It is asked again at {_time(job.ask_carbon_at)}; the job starts by itself at "
            f"{_time(job.latest_start)}."
        )
    return lines


def _attempt(item: AttemptRecord) -> str:
    if item.outcome is None:
        return f"Attempt {item.number} runs on {item.runner} since {_time(item.started)}."
    error = f": {item.failure.reason}: {item.failure.message}" if item.failure else ""
    what = f"{_OUTCOMES[item.outcome]} at {_time(item.ended)}"
    return _sentence(f"attempt {item.number} on {item.runner} {what}{error}")


def _outlook(job: Job, now: datetime) -> list[str]:
    lines = []
    if not job.has_ended:
        policy = job.spec.retry
        if job.idempotent:
            lines.append(
                f"Its tool is idempotent: it has {policy.max_attempts} attempts, {job.failures} have failed, "
                "and it runs again when its runner is lost."
            )
        else:
            lines.append("Its tool is not idempotent: once started, it is not started again by itself.")
        if job.spec.deadline is not None:
            lines.append(f"It ends at {_time(job.spec.deadline)} at the latest.")
    elif job.state is State.FAILED:
        help_ = "may help" if job.dead_letter else "will not help unless something else has changed"
        lines.append(f"Retrying it {help_}.")
    if job.expires is not None:
        lines.append(f"It is kept until {_time(job.expires)}." if job.expires > now else "It is about to go.")
    return lines


def _time(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else "an unknown time"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."
