"""What can go wrong with jobs."""

from __future__ import annotations

from datetime import datetime, timedelta

from aegis_common.errors import AegisError, ErrorKind, Scope


class UnknownJob(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_JOB"

    @classmethod
    def named(cls, job_id: str) -> UnknownJob:
        return cls(f"job {job_id!r} does not exist, or its retention is over", job=job_id)


class InvalidJob(AegisError):
    """A field of the job contradicts another, or the present time."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_JOB"

    @classmethod
    def field(cls, path: str, message: str, value: object) -> InvalidJob:
        """Build the error for the *value* of a field; *message* goes on from it, as in `is over already`."""
        told = f"{value} {message}"
        return cls(f"{path}: {told}", violations={path: told}, field=path, value=str(value))


class InvalidFilter(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_FILTER"


class InvalidResumeToken(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_RESUME_TOKEN"


class PayloadTooLarge(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "PAYLOAD_TOO_LARGE"


class RequestIdReused(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class TooManyJobs(AegisError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_JOBS"
    scope = Scope.FLEET


class JobNotRetryable(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "JOB_NOT_RETRYABLE"


class JobsNotConfigured(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "JOBS_NOT_CONFIGURED"


class NoCarbonService(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "NO_CARBON_SERVICE"


class UnknownZone(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ZONE"


class JobStoreUnavailable(AegisError):
    kind = ErrorKind.UNAVAILABLE
    reason = "JOB_STORE_UNAVAILABLE"

    @classmethod
    def because(cls, cause: str) -> JobStoreUnavailable:
        return cls(
            f"the job store does not answer, or takes no writes ({cause}); what was acknowledged is kept, "
            "try again",
            retry_after=timedelta(seconds=1),
            cause=cause,
        )


class UnreadableJob(AegisError):
    """A stored record is damaged, or of a schema version that this process does not know."""

    kind = ErrorKind.INTERNAL
    reason = "UNREADABLE_JOB"


class ResultTooLarge(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "JOB_RESULT_TOO_LARGE"
    scope = Scope.CALL


class JobDeadline(AegisError):
    """The job's deadline is over."""

    kind = ErrorKind.DEADLINE_EXCEEDED
    reason = "JOB_DEADLINE"

    @classmethod
    def of(cls, deadline: datetime, *, started: bool) -> JobDeadline:
        what = "was stopped" if started else "had not been started"
        return cls(f"the job {what} at its deadline, {deadline.isoformat()}", deadline=deadline.isoformat())


class WorkerLost(AegisError):
    """The agent process that ran the job is gone; nobody knows how far the work had come."""

    kind = ErrorKind.ABORTED
    reason = "WORKER_LOST"


class Fenced(Exception):
    """The attempt is no longer the job's current one: somebody else has decided about the job."""
