"""Jobs as values at a fixed time, for tests of the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.job import (
    Failure,
    Job,
    JobSpec,
    RetryPolicy,
)
from aegis_common.errors import ErrorKind

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
KEEP = timedelta(days=7)
CRASH = Failure(kind=ErrorKind.ABORTED, reason="TOOL_CRASHED", message="it died", metadata={"tool": "t"})
BAD_INPUT = Failure(kind=ErrorKind.INVALID_ARGUMENT, reason="INVALID_TOOL_INPUT", message="no")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def new(*, idempotent: bool = True, attempts: int = 3, principal: str = "{}", **spec: Any) -> Job:
    return machine.accepted(
        Job(
            tenant="red",
            job_id="0abc",
            spec=JobSpec(
                tool="t",
                timeout=timedelta(seconds=10),
                retry=RetryPolicy(max_attempts=attempts),
                **spec,
            ),
            principal=principal,
            creator="alice",
            traceparent="",
            created=NOW,
            idempotent=idempotent,
        ),
        now=NOW,
    )


def begun(job: Job, *, runner: str = "r1", entry: str = "1-0") -> Job:
    return machine.started(
        job,
        runner=runner,
        entry=entry,
        queue_number=job.queue_number,
        idempotent=job.idempotent,
        tool_version="1.0.0",
        now=NOW,
    )


def failed(job: Job, failure: Failure = CRASH, *, now: datetime = NOW) -> Job:
    return machine.failed(job, job.attempt, failure, share=1.0, keep=KEEP, now=now)
