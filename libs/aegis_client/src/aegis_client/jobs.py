"""Durable jobs: calls of tools that outlive their caller, the agent and a crash of either."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aegis.agent.v1 import job_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, Watch, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import duration, enum_value, optional_resource, resource, stamp
from aegis_client.errors import AegisClientError
from aegis_client.job_forms import (
    Job,
    JobEvent,
    JobExplanation,
    read_answer,
    read_explanation,
    read_jobs,
    read_step,
)
from aegis_client.parts import Part, payload_of

# Sent again without harm: each request has its own key.
CREATE: Final = replace(method(pb, "JobService", "CreateJob", pb.CreateJobResponse), idempotent=True)
GET: Final = method(pb, "JobService", "GetJob", pb.GetJobResponse)
LIST: Final = method(pb, "JobService", "ListJobs", pb.ListJobsResponse)
CANCEL: Final = method(pb, "JobService", "CancelJob", pb.CancelJobResponse)
WATCH: Final = method(pb, "JobService", "WatchJob", pb.WatchJobResponse)
RETRY: Final = method(pb, "JobService", "RetryJob", pb.RetryJobResponse)
EXPLAIN: Final = method(pb, "JobService", "ExplainJob", pb.ExplainJobResponse)


def _create(
    tool: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    parts: Sequence[Part] = (),
    files: Mapping[str, Path | str | bytes] | None = None,
    tool_timeout: float | None = None,
    not_before: datetime | None = None,
    deadline: datetime | float | None = None,
    priority: str = "",
    max_attempts: int = 0,
    initial_backoff: float | None = None,
    max_backoff: float | None = None,
    wait_for_clean_grid: bool = False,
    zone: str = "",
    max_intensity: float | None = None,
    max_wait: float | timedelta | None = None,
    carbon_duration: float | timedelta | None = None,
    pool: str = "",
    labels: Mapping[str, str] | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Operation[Job]:
    """Create a job; when this returns, it is on disk. Sent again by itself when the agent is away.

    Args:
        tool: `image_ocr` or `tools/image_ocr`.
        arguments: JSON values by parameter; bytes are allowed at the top and travel raw.
        parts: Content that is sent as it is.
        files: Path by parameter; the files are read and sent raw. Bytes are taken for the content itself.
        tool_timeout: Longest time of one attempt, in seconds, up to 24 h. None means the tool's default.
        not_before: Earliest start, with a time zone.
        deadline: When the job has to have ended: a time with a time zone, or seconds from now.
        priority: `low`, `normal` or `high`; if empty, the tool's own.
        max_attempts: 1 to 20; 0 means 3 for an idempotent tool and 1 for any other.
        initial_backoff: Pause before the second attempt, in seconds; None means 1 s.
        max_backoff: Longest pause, in seconds; None means 60 s.
        wait_for_clean_grid: Start in the cleanest time within the wait: the agent holds a reservation for it.
            `zone`, `max_wait`, `carbon_duration` and `pool` mean so too.
        zone: Grid zone that counts; if empty, the carbon service's default.
        max_intensity: Start as soon as the grid has no more than that, in gCO2e/kWh, without a reservation.
        max_wait: Longest wait for the grid, in seconds, up to 7 days; None means that the deadline decides,
            and 1 h without one.
        carbon_duration: How long the job is expected to run, in seconds; None means its `tool_timeout`.
        pool: Capacity pool of the carbon service of which it takes a place while it runs.
        labels: Up to 32, for `list`.
        request_id: Idempotency key, a UUID: the same one again with the same arguments returns the same job
            (a deadline in seconds is another one each time). If empty, a new one.
        timeout: Deadline of this call, in seconds; not of the job.

    Raises:
        NotFound: Reason `UNKNOWN_TOOL`, `UNKNOWN_ZONE` or `UNKNOWN_CAPACITY_POOL`.
        FailedPrecondition: Reason `INFEASIBLE_JOB`: it cannot run in time beside what its pool has accepted.
        InvalidArgument: Reason `INVALID_TOOL_INPUT`, `INVALID_JOB` or `PAYLOAD_TOO_LARGE`.
        AlreadyExists: Reason `REQUEST_ID_REUSED`.
        ResourceExhausted: Reason `TOO_MANY_JOBS`.
        Unavailable: Reason `JOB_STORE_UNAVAILABLE`.
    """
    policy = None
    limits = (max_intensity, max_wait, carbon_duration)
    if wait_for_clean_grid or zone or pool or any(limit is not None for limit in limits):
        policy = pb.JobCarbonPolicy(
            zone=optional_resource("zones", zone),
            max_intensity_g_per_kwh=max_intensity,
            max_wait=duration(max_wait),
            duration=duration(carbon_duration),
            capacity_pool=pool,
        )
    job = pb.Job(
        tool=resource("tools", tool),
        payload=payload_of(arguments or {}, parts, files or {}),
        timeout=duration(tool_timeout),
        not_before=stamp(not_before, "not_before"),
        deadline=stamp(deadline, "deadline"),
        retry_policy=pb.JobRetryPolicy(
            max_attempts=max_attempts,
            initial_backoff=duration(initial_backoff),
            max_backoff=duration(max_backoff),
        ),
        carbon_policy=policy,
        labels=dict(labels or {}),
    )
    if priority:
        job.priority = enum_value(pb.Job.Priority, priority, "priority")  # type: ignore[assignment]
    request = pb.CreateJobRequest(job=job, request_id=request_id or str(uuid.uuid4()))
    return Operation(CREATE, request, read_answer, timeout)


def _get(name: str, *, timeout: float | None = None) -> Operation[Job]:
    """Return one job with its payload and its result.

    Raises:
        NotFound: Reason `UNKNOWN_JOB`.
    """
    return Operation(GET, pb.GetJobRequest(name=resource("jobs", name)), read_answer, timeout)


def _list(*, filter: str = "", page_size: int = 0) -> Listing[Job]:  # noqa: A002  # its name in the API
    """Iterate over the tenant's jobs, newest first, without payloads and results.

    Args:
        filter: For example `state = FAILED AND labels.team = "red"`; see `ListJobs` for all of it.
        page_size: Jobs that are fetched at a time.

    Raises:
        InvalidArgument: Reason `INVALID_FILTER`.
    """

    def fetch(token: str) -> Operation[Page[Job]]:
        request = pb.ListJobsRequest(filter=filter, page_size=page_size, page_token=token)
        return Operation(LIST, request, read_jobs)

    return Listing(fetch)


def _cancel(name: str, *, timeout: float | None = None) -> Operation[Job]:
    """Cancel a job; one that has ended stays as it is and is returned.

    Raises:
        NotFound: Reason `UNKNOWN_JOB`.
    """
    return Operation(CANCEL, pb.CancelJobRequest(name=resource("jobs", name)), read_answer, timeout)


def _retry(
    name: str, *, deadline: datetime | float | None = None, timeout: float | None = None
) -> Operation[Job]:
    """Run a job that failed or was cancelled once more.

    Args:
        name: `jobs/{job}`, or its last part.
        deadline: A new one: a time with a time zone, or seconds from now. None keeps the job's own.
        timeout: Deadline of this call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_JOB`.
        FailedPrecondition: Reason `JOB_NOT_RETRYABLE`.
    """
    request = pb.RetryJobRequest(name=resource("jobs", name), deadline=stamp(deadline, "deadline"))
    return Operation(RETRY, request, read_answer, timeout)


def _explain(name: str, *, timeout: float | None = None) -> Operation[JobExplanation]:
    """Say why a job is where it is: what it waits for and until when, and every attempt with its error.

    Raises:
        NotFound: Reason `UNKNOWN_JOB`.
    """
    request = pb.ExplainJobRequest(name=resource("jobs", name))
    return Operation(EXPLAIN, request, read_explanation, timeout)


def _watch(name: str, *, resume_token: str = "", timeout: float | None = None) -> Watch[JobEvent]:
    """Iterate over what happens in a job, until it has ended; broken streams are resumed unseen.

    Args:
        name: `jobs/{job}`, or its last part.
        resume_token: Where to go on; if empty, the first event is the job as it stands.
        timeout: Deadline of the whole watch, in seconds; None means none.

    Raises:
        NotFound: Reason `UNKNOWN_JOB`.
        InvalidArgument: Reason `INVALID_RESUME_TOKEN`.
        DeadlineExceeded: The `timeout` is over.
    """
    job = resource("jobs", name)

    def request(token: str) -> pb.WatchJobRequest:
        return pb.WatchJobRequest(name=job, resume_token=token)

    return Watch(WATCH, request, read_step, resume_token, timeout)


class JobsSurface:
    create = unary(_create, reads_files=True)
    get = unary(_get)
    list = stream(_list)
    cancel = unary(_cancel)
    retry = unary(_retry)
    explain = unary(_explain)
    watch = stream(_watch)


class Jobs(JobsSurface, SyncApi):
    """`Client.jobs`."""

    def wait(self, name: str, *, timeout: float | None = None) -> Job:
        """Follow a job to its end and return it with its result, failed or not; see `watch` for errors."""
        for event in self.watch(name, timeout=timeout):
            if event.kind == "end" and event.job:
                return event.job
        raise AegisClientError(f"the watch of {name} ended without the job's end")


class AsyncJobs(JobsSurface, AsyncApi):
    """`AsyncClient.jobs`."""

    async def wait(
        self,
        name: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the same surface as `Client`
    ) -> Job:
        """Follow a job to its end and return it with its result, failed or not; see `watch` for errors."""
        async for event in self.watch(name, timeout=timeout):
            if event.kind == "end" and event.job:
                return event.job
        raise AegisClientError(f"the watch of {name} ended without the job's end")
