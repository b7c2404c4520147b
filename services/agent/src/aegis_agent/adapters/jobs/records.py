"""A job's record as JSON, with its schema version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from aegis_agent.domain.call import Priority, Progress
from aegis_agent.domain.jobs.errors import UnreadableJob
from aegis_agent.domain.jobs.job import (
    AttemptRecord,
    CarbonAnswer,
    CarbonPolicy,
    Failure,
    Hold,
    Job,
    JobSpec,
    Outcome,
    Phase,
    RetryPolicy,
    State,
    WaitReason,
)
from aegis_agent.domain.usage import Usage
from aegis_common.errors import ErrorKind

SCHEMA_VERSION: Final = 1

_PLAIN: Final = (
    "tenant",
    "job_id",
    "principal",
    "creator",
    "traceparent",
    "request_id",
    "idempotent",
    "tool_version",
    "queue_number",
    "entry",
    "attempt",
    "failures",
    "losses",
    "hand_backs",
    "runner",
    "model_version",
)
_TIMES: Final = ("wait_until", "ask_carbon_at", "latest_start", "started", "ended", "expires")


def to_record(job: Job) -> str:
    """Return the stored form; without the revision, which the store counts itself."""
    fields: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    fields |= {name: getattr(job, name) for name in _PLAIN}
    fields |= {name: _moment(getattr(job, name)) for name in _TIMES}
    fields |= {
        "spec": _spec_record(job.spec),
        "created": _moment(job.created),
        "state": job.state.value,
        "phase": job.phase.value if job.phase else None,
        "wait_reason": job.wait_reason.value if job.wait_reason else None,
        "attempts": [_attempt_record(item) for item in job.attempts],
        "used": {str(item.number): [item.usage.cpu_s, item.usage.peak_bytes] for item in job.attempts},
        "failure": _failure_record(job.failure),
        "obstacle": _failure_record(job.obstacle),
        "tool_missed": _moment(job.tool_missed),
        "warnings": list(job.warnings),
        "carbon_answer": _answer_record(job.carbon_answer),
        "waits": job.waits,
        "hold": _hold_record(job.hold),
    }
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def from_record(data: bytes | str, revision: int) -> Job:
    """Read the stored form back.

    Raises:
        UnreadableJob: It is damaged, or of a schema version that is not known here.
    """
    try:
        fields = json.loads(data)
        version = fields["schema_version"]
        if version != SCHEMA_VERSION:
            raise UnreadableJob(
                f"a job's record has schema version {version}; this agent knows {SCHEMA_VERSION}",
                schema_version=str(version),
            )
        return Job(
            **_simple(fields),
            spec=_read_spec(fields["spec"]),
            created=datetime.fromisoformat(fields["created"]),
            state=State(fields["state"]),
            phase=Phase(fields["phase"]) if fields["phase"] else None,
            wait_reason=WaitReason(fields["wait_reason"]) if fields["wait_reason"] else None,
            attempts=tuple(_read_attempt(item, fields.get("used", {})) for item in fields["attempts"]),
            failure=_read_failure(fields["failure"]),
            # Not in the records of earlier agents.
            obstacle=_read_failure(fields.get("obstacle")),
            tool_missed=_read_moment(fields.get("tool_missed")),
            warnings=tuple(fields["warnings"]),
            carbon_answer=_read_answer(fields["carbon_answer"]),
            waits=fields.get("waits", 0),
            hold=_read_hold(fields.get("hold")),
            revision=revision,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableJob(f"a job's record is damaged: {type(error).__name__}: {error}") from error


def _simple(fields: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: _read_moment(fields[name]) for name in _TIMES}
    return {name: fields[name] for name in _PLAIN} | times


def progress_record(progress: Progress) -> str:
    return json.dumps([progress.done, progress.total, progress.message], separators=(",", ":"))


def read_progress(data: bytes | None) -> Progress | None:
    """Read a progress back; None stays None."""
    if not data:
        return None
    done, total, message = json.loads(data)
    return Progress(done=done, total=total, message=message)


def _spec_record(spec: JobSpec) -> dict[str, Any]:
    carbon = spec.carbon
    return {
        "tool": spec.tool,
        "timeout_s": spec.timeout.total_seconds(),
        "not_before": _moment(spec.not_before),
        "deadline": _moment(spec.deadline),
        "priority": spec.priority.name,
        "labels": dict(spec.labels),
        "retry": [
            spec.retry.max_attempts,
            spec.retry.initial_backoff.total_seconds(),
            spec.retry.max_backoff.total_seconds(),
        ],
        "carbon": None if carbon is None else _policy_record(carbon),
    }


def _read_spec(fields: Mapping[str, Any]) -> JobSpec:
    attempts, initial, most = fields["retry"]
    carbon = fields["carbon"]
    return JobSpec(
        tool=fields["tool"],
        timeout=timedelta(seconds=fields["timeout_s"]),
        not_before=_read_moment(fields["not_before"]),
        deadline=_read_moment(fields["deadline"]),
        priority=Priority[fields["priority"]],
        labels=fields["labels"],
        retry=RetryPolicy(
            max_attempts=attempts,
            initial_backoff=timedelta(seconds=initial),
            max_backoff=timedelta(seconds=most),
        ),
        carbon=None if carbon is None else _read_policy(*carbon),
    )


def _policy_record(policy: CarbonPolicy) -> list[Any]:
    return [
        policy.zone,
        policy.max_intensity,
        _seconds(policy.max_wait),
        _seconds(policy.duration),
        policy.pool,
    ]


def _read_policy(
    zone: str,
    max_intensity: float | None,
    max_wait: float | None,
    duration: float | None = None,  # earlier agents wrote neither this
    pool: str = "",  # nor this
) -> CarbonPolicy:
    return CarbonPolicy(
        zone=zone,
        max_intensity=max_intensity,
        max_wait=_read_seconds(max_wait),
        duration=_read_seconds(duration),
        pool=pool,
    )


def _hold_record(hold: Hold | None) -> dict[str, Any] | None:
    if hold is None:
        return None
    return {
        "name": hold.name,
        "number": hold.number,
        "start_token": hold.start_token,
        "planned_start": _moment(hold.planned_start),
        "latest_start": _moment(hold.latest_start),
        "saving": hold.saving,
        "started": hold.started,
    }


def _read_hold(fields: Mapping[str, Any] | None) -> Hold | None:
    if fields is None:
        return None
    return Hold(
        name=fields["name"],
        number=fields["number"],
        start_token=fields["start_token"],
        planned_start=_read_moment(fields["planned_start"]),
        latest_start=datetime.fromisoformat(fields["latest_start"]),
        saving=fields["saving"],
        started=fields["started"],
    )


def _attempt_record(item: AttemptRecord) -> list[Any]:
    outcome = item.outcome.value if item.outcome else None
    return [
        item.number,
        item.runner,
        _moment(item.started),
        _moment(item.ended),
        outcome,
        _failure_record(item.failure),
    ]


def _read_attempt(fields: list[Any], used: Mapping[str, list[Any]]) -> AttemptRecord:
    number, runner, started, ended, outcome, failure = fields
    return AttemptRecord(
        number=number,
        runner=runner,
        started=datetime.fromisoformat(started),
        ended=_read_moment(ended),
        outcome=Outcome(outcome) if outcome else None,
        failure=_read_failure(failure),
        usage=Usage(*used.get(str(number), (None, None))),  # earlier agents wrote none
    )


def _failure_record(failure: Failure | None) -> list[Any] | None:
    if failure is None:
        return None
    return [
        failure.kind.value,
        failure.reason,
        failure.message,
        dict(failure.metadata),
        dict(failure.violations),
    ]


def _read_failure(fields: list[Any] | None) -> Failure | None:
    if fields is None:
        return None
    kind, reason, message, metadata, violations = fields
    return Failure(
        kind=ErrorKind(kind), reason=reason, message=message, metadata=metadata, violations=violations
    )


def _answer_record(answer: CarbonAnswer | None) -> list[Any] | None:
    if answer is None:
        return None
    return [
        answer.run_now,
        answer.reason,
        _moment(answer.asked),
        answer.intensity,
        answer.threshold,
        answer.source,
    ]


def _read_answer(fields: list[Any] | None) -> CarbonAnswer | None:
    if fields is None:
        return None
    run_now, reason, asked, intensity, threshold, source = fields
    return CarbonAnswer(
        run_now=run_now,
        reason=reason,
        asked=datetime.fromisoformat(asked),
        intensity=intensity,
        threshold=threshold,
        source=source,
    )


def _moment(value: datetime | None) -> str | None:
    return value.isoformat() if value else None


def _read_moment(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()


def _read_seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)
