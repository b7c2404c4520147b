"""Jobs between protobuf and the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from aegis.agent.v1 import job_service_pb2 as pb
from aegis_agent.adapters.jobs.content import decoded
from aegis_agent.domain.call import Priority, Progress
from aegis_agent.domain.jobs.errors import InvalidJob
from aegis_agent.domain.jobs.explain import message
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
from aegis_agent.domain.jobs.ports import StoredJob
from aegis_agent.domain.jobs.service import Explained, Wanted
from aegis_common.rpc.errors import ErrorDetails, RemoteError, to_status
from aegis_common.rpc.times import timestamp

_STATES: Final = {state: pb.Job.State.Value(f"STATE_{state.name}") for state in State}
_PHASES: Final = {phase: pb.Job.Phase.Value(f"PHASE_{phase.name}") for phase in Phase}
_REASONS: Final = {reason: pb.Job.WaitReason.Value(f"WAIT_REASON_{reason.name}") for reason in WaitReason}
_PRIORITIES: Final = {item: pb.Job.Priority.Value(f"PRIORITY_{item.name}") for item in Priority}
_OUTCOMES: Final = {item: pb.JobAttempt.Outcome.Value(f"OUTCOME_{item.name}") for item in Outcome}
_WANTED_PRIORITIES: Final = {value: item for item, value in _PRIORITIES.items()}


def wanted(job: pb.Job) -> Wanted:
    """Return what a caller asks for.

    Raises:
        InvalidJob: A time is out of the range of times.
    """
    retry, carbon = job.retry_policy, job.carbon_policy
    defaults = RetryPolicy()
    spec = JobSpec(
        tool=job.tool.removeprefix("tools/"),
        timeout=timedelta(0),
        not_before=time_of(job, "not_before", "job.not_before"),
        deadline=time_of(job, "deadline", "job.deadline"),
        labels=dict(job.labels),
        retry=RetryPolicy(
            initial_backoff=_span(retry, "initial_backoff") or defaults.initial_backoff,
            max_backoff=_span(retry, "max_backoff") or defaults.max_backoff,
        ),
        carbon=CarbonPolicy(
            zone=carbon.zone,
            max_intensity=carbon.max_intensity_g_per_kwh
            if carbon.HasField("max_intensity_g_per_kwh")
            else None,
            max_wait=_span(carbon, "max_wait"),
            duration=_span(carbon, "duration"),
            pool=carbon.capacity_pool,
        )
        if job.HasField("carbon_policy")
        else None,
    )
    return Wanted(
        spec=spec,
        timeout=_span(job, "timeout"),
        priority=_WANTED_PRIORITIES.get(job.priority),
        max_attempts=retry.max_attempts,
    )


def time_of(holder: Any, field: str, path: str) -> datetime | None:
    """Return a timestamp field, or None when it is unset.

    Raises:
        InvalidJob: It is out of the range of times.
    """
    if not holder.HasField(field):
        return None
    stamp: Timestamp = getattr(holder, field)
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidJob.field(path, "is no time from year 1 to 9999", stamp.seconds) from error


def job_message(job: Job, *, progress: Progress | None = None) -> pb.Job:
    """Return a job without its payload and result."""
    spec = job.spec
    made = pb.Job(
        name=f"jobs/{job.job_id}",
        tool=f"tools/{spec.tool}",
        not_before=timestamp(spec.not_before),
        deadline=timestamp(spec.deadline),
        priority=_PRIORITIES[spec.priority],
        labels=dict(spec.labels),
        state=_STATES[job.state],
        phase=_PHASES[job.phase] if job.phase else pb.Job.PHASE_UNSPECIFIED,
        state_message=message(job),
        wait_reason=_REASONS[job.wait_reason] if job.wait_reason else pb.Job.WAIT_REASON_UNSPECIFIED,
        wait_until=timestamp(job.wait_until),
        latest_start=timestamp(job.latest_start),
        progress=progress_message(progress) if progress else None,
        error=status(job.failure) if job.failure else None,
        dead_letter=job.dead_letter,
        attempt=job.attempt,
        create_time=timestamp(job.created),
        start_time=timestamp(job.started),
        end_time=timestamp(job.ended),
        expire_time=timestamp(job.expires),
        creator=job.creator,
        tool_version=job.tool_version,
        model_version=job.model_version,
        warnings=job.warnings,
        trace_id=_trace_id(job.traceparent),
        idempotent=job.idempotent,
        reservation=_reservation(job.hold) if job.hold else None,
    )
    made.timeout.FromTimedelta(spec.timeout)
    made.retry_policy.max_attempts = spec.retry.max_attempts
    made.retry_policy.initial_backoff.FromTimedelta(spec.retry.initial_backoff)
    made.retry_policy.max_backoff.FromTimedelta(spec.retry.max_backoff)
    if spec.carbon is not None:
        made.carbon_policy.CopyFrom(_carbon_policy(spec.carbon))
    return made


def whole_message(stored: StoredJob, *, payload: bool = True) -> pb.Job:
    """Return a job with its result and, if wanted, its payload."""
    made = job_message(stored.job, progress=stored.progress)
    if payload:
        made.payload.extend(decoded(stored.payload))
    if stored.job.state is State.COMPLETED:
        made.result.extend(decoded(stored.result))
    return made


def explained_message(explained: Explained) -> pb.ExplainJobResponse:
    job = explained.job
    return pb.ExplainJobResponse(
        job=job_message(job, progress=explained.progress),
        explanation=explained.lines,
        attempts=[_attempt(item) for item in job.attempts],
        queue_length=explained.queue_length,
        carbon=_answer(job.carbon_answer) if job.carbon_answer else None,
    )


def progress_message(progress: Progress) -> pb.JobProgress:
    return pb.JobProgress(done=progress.done, total=progress.total, message=progress.message)


def status(failure: Failure) -> status_pb2.Status:
    """Return a stored error as a status."""
    details = ErrorDetails(
        failure.kind, failure.reason, failure.message, dict(failure.metadata), dict(failure.violations)
    )
    return to_status(RemoteError(details))


def _trace_id(traceparent: str) -> str:
    _, _, rest = traceparent.partition("-")
    return rest.partition("-")[0]


def _carbon_policy(policy: CarbonPolicy) -> pb.JobCarbonPolicy:
    made = pb.JobCarbonPolicy(zone=policy.zone, max_intensity_g_per_kwh=policy.max_intensity)
    made.capacity_pool = policy.pool
    if policy.max_wait is not None:
        made.max_wait.FromTimedelta(policy.max_wait)
    if policy.duration is not None:
        made.duration.FromTimedelta(policy.duration)
    return made


def _reservation(hold: Hold) -> pb.JobReservation:
    return pb.JobReservation(
        name=hold.name, planned_start_time=timestamp(hold.planned_start), expected_saving=hold.saving
    )


def _attempt(item: AttemptRecord) -> pb.JobAttempt:
    return pb.JobAttempt(
        number=item.number,
        outcome=_OUTCOMES[item.outcome] if item.outcome else pb.JobAttempt.OUTCOME_UNSPECIFIED,
        runner=item.runner,
        start_time=timestamp(item.started),
        end_time=timestamp(item.ended),
        error=status(item.failure) if item.failure else None,
    )


def _answer(answer: CarbonAnswer) -> pb.JobCarbonAnswer:
    return pb.JobCarbonAnswer(
        run_now=answer.run_now,
        reason=answer.reason,
        intensity_g_per_kwh=answer.intensity,
        threshold_g_per_kwh=answer.threshold,
        source=answer.source,
        ask_time=timestamp(answer.asked),
    )


def _span(holder: Any, field: str) -> timedelta | None:
    return getattr(holder, field).ToTimedelta() if holder.HasField(field) else None
