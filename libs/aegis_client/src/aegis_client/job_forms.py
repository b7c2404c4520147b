"""Jobs as the SDK shows them, and how they are read from messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aegis.agent.v1 import job_service_pb2 as pb
from aegis_client import parts as part_forms
from aegis_client.core.operation import Page, Step
from aegis_client.core.status import status_error
from aegis_client.core.values import enum_name, moment, span
from aegis_client.errors import AegisApiError
from aegis_client.parts import Part

ENDED: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """How far a tool has come: *done* of *total* units; `total` is None when nobody knows."""

    done: float
    total: float | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReservation:
    """The carbon reservation of a job.

    Attributes:
        name: `reservations/{reservation}`, for `client.reservations`.
        planned_start_time: None while nothing is known of the grid.
        expected_saving: Share of the emissions of a start at once; None without a plan.
    """

    name: str
    planned_start_time: datetime | None
    expected_saving: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job.

    Attributes:
        name: `jobs/{job}`.
        tool: `tools/{tool}`.
        state: `WORKING`, `COMPLETED`, `FAILED` or `CANCELLED`.
        phase: While it works: `DEFERRED`, `QUEUED`, `RUNNING` or `CANCELLING`; else empty.
        state_message: Why it stands there, in one sentence.
        wait_reason: `NOT_BEFORE`, `CARBON`, `BACKOFF`, `TOOL_BUSY`, or empty.
        wait_until: When a deferred job becomes ready at the latest.
        latest_start: When a job with a carbon policy starts whatever the grid is like.
        reservation: The place in time that the agent holds for it, or None.
        parts: The result; empty before the end, and in lists.
        payload: The input; empty but from `get`.
        error: Why it failed, as a call of its own would have told it, or None.
        dead_letter: True for a failed job that another attempt might mend.
        attempt: Number of the last attempt; 0 before the first.
        expire_time: When an ended job is deleted with its result.
    """

    name: str
    tool: str
    state: str
    phase: str
    state_message: str
    priority: str
    labels: dict[str, str]
    wait_reason: str
    wait_until: datetime | None
    latest_start: datetime | None
    reservation: JobReservation | None
    not_before: datetime | None
    deadline: datetime | None
    timeout: timedelta | None
    progress: JobProgress | None
    payload: tuple[Part, ...]
    parts: tuple[Part, ...]
    error: AegisApiError | None
    dead_letter: bool
    idempotent: bool
    attempt: int
    max_attempts: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    creator: str
    tool_version: str
    model_version: str
    warnings: tuple[str, ...]
    trace_id: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        return self.state == "COMPLETED"

    @property
    def value(self) -> Any:
        """The content of the only result part; of several, a dict from name (or position) to content."""
        return part_forms.value_of(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """What happened in a job.

    Attributes:
        kind: `state` and `end` come with `job`, `progress` with `progress`, `log` with `level` and `message`,
            `chunk` with `parts`; `end` is the last event.
        omitted_bytes: Size of a chunk that was too large to be told while the job runs; else 0.
        attempt: The attempt that it belongs to; 0 for none.
        resume_token: Token to go on after this event, for `watch` of another client.
    """

    kind: str
    job: Job | None
    progress: JobProgress | None
    level: str
    message: str
    parts: tuple[Part, ...]
    omitted_bytes: int
    attempt: int
    time: datetime | None
    resume_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttempt:
    """One start of a job's tool.

    Attributes:
        outcome: `SUCCEEDED`, `FAILED`, `LOST`, `CANCELLED`, `HANDED_BACK`, or empty while it runs.
        runner: Agent process that it ran on.
    """

    number: int
    outcome: str
    runner: str
    start_time: datetime | None
    end_time: datetime | None
    error: AegisApiError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobExplanation:
    """Why a job is where it is.

    Attributes:
        lines: What has happened and what comes next, in sentences.
        attempts: Oldest first.
        queue_length: Jobs of its priority that wait for a slot, of all tenants; 0 when it does not wait.
    """

    job: Job
    lines: tuple[str, ...]
    attempts: tuple[JobAttempt, ...]
    queue_length: int


def read_answer(answer: pb.GetJobResponse) -> Job:
    """Return the job out of an answer; other answers with a `job` are read alike."""
    return read_job(answer.job)


def read_jobs(answer: pb.ListJobsResponse) -> Page[Job]:
    return Page([read_job(job) for job in answer.jobs], answer.next_page_token)


def read_step(message: pb.WatchJobResponse) -> Step[JobEvent]:
    kind = message.WhichOneof("event")
    if kind == "reconnect":
        return Step(resume_token=message.resume_token, reconnect=True)
    if kind is None:
        return Step(resume_token=message.resume_token)  # an event of a newer server
    job = {"state_change": message.state_change, "end": message.end}.get(kind)
    event = JobEvent(
        kind="state" if kind == "state_change" else kind,
        job=read_job(job) if job is not None else None,
        progress=_read_progress(message.progress) if kind == "progress" else None,
        level=message.log.level,
        message=message.log.message,
        parts=tuple(map(part_forms.from_proto, message.chunk.parts)),
        omitted_bytes=message.chunk.omitted_bytes,
        attempt=message.attempt,
        time=moment(message, "event_time"),
        resume_token=message.resume_token,
    )
    return Step(event, message.resume_token, last=kind == "end")


def _read_progress(progress: pb.JobProgress) -> JobProgress:
    total = progress.total if progress.HasField("total") else None
    return JobProgress(done=progress.done, total=total, message=progress.message)


def read_explanation(answer: pb.ExplainJobResponse) -> JobExplanation:
    return JobExplanation(
        job=read_job(answer.job),
        lines=tuple(answer.explanation),
        attempts=tuple(_read_attempt(item) for item in answer.attempts),
        queue_length=answer.queue_length,
    )


def _read_attempt(item: pb.JobAttempt) -> JobAttempt:
    return JobAttempt(
        number=item.number,
        outcome=_name(pb.JobAttempt.Outcome, item.outcome),
        runner=item.runner,
        start_time=moment(item, "start_time"),
        end_time=moment(item, "end_time"),
        error=status_error(item.error, "") if item.HasField("error") else None,
    )


def _read_reservation(found: pb.JobReservation) -> JobReservation:
    return JobReservation(
        name=found.name,
        planned_start_time=moment(found, "planned_start_time"),
        expected_saving=found.expected_saving if found.HasField("expected_saving") else None,
    )


def read_job(job: pb.Job) -> Job:
    """Return a job out of its message."""
    return Job(
        name=job.name,
        tool=job.tool,
        state=enum_name(pb.Job.State, job.state),
        phase=_name(pb.Job.Phase, job.phase),
        state_message=job.state_message,
        priority=_name(pb.Job.Priority, job.priority),
        labels=dict(job.labels),
        wait_reason=_name(pb.Job.WaitReason, job.wait_reason),
        wait_until=moment(job, "wait_until"),
        latest_start=moment(job, "latest_start"),
        reservation=_read_reservation(job.reservation) if job.HasField("reservation") else None,
        not_before=moment(job, "not_before"),
        deadline=moment(job, "deadline"),
        timeout=span(job, "timeout"),
        progress=_read_progress(job.progress) if job.HasField("progress") else None,
        payload=tuple(map(part_forms.from_proto, job.payload)),
        parts=tuple(map(part_forms.from_proto, job.result)),
        error=status_error(job.error, job.trace_id) if job.HasField("error") else None,
        dead_letter=job.dead_letter,
        idempotent=job.idempotent,
        attempt=job.attempt,
        max_attempts=job.retry_policy.max_attempts,
        create_time=moment(job, "create_time"),
        start_time=moment(job, "start_time"),
        end_time=moment(job, "end_time"),
        expire_time=moment(job, "expire_time"),
        creator=job.creator,
        tool_version=job.tool_version,
        model_version=job.model_version,
        warnings=tuple(job.warnings),
        trace_id=job.trace_id,
    )


def _name(enum: Any, value: int) -> str:
    return enum_name(enum, value) if value else ""
