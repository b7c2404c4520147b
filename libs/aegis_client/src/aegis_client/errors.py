"""What can go wrong in a call, one class per canonical code; nothing here imports gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final


class AegisClientError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UsageError(AegisClientError, ValueError):
    """The caller gave a value that cannot be sent, for example a file that cannot be read."""


class ProfileError(AegisClientError):
    """No usable profile: a missing file, an unknown name, a bad key, an unreadable certificate or token."""


class AegisApiError(AegisClientError):
    """The service, the gateway or the connection refused or broke a call.

    Attributes:
        code: Canonical gRPC code, for example `NOT_FOUND`.
        reason: `google.rpc.ErrorInfo.reason`, for example `UNKNOWN_TOOL`; empty when no service answered.
        message: What is wrong, as the service put it.
        metadata: `google.rpc.ErrorInfo.metadata`: the values that the message mentions.
        violations: Field path to what is wrong with it, from `google.rpc.BadRequest`.
        retry_after: When trying again may help, from `google.rpc.RetryInfo`, or None.
        trace_id: W3C trace id of the call, 32 hex digits; it stands in the services' logs.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        trace_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = dict(violations or {})
        self.retry_after = retry_after
        self.trace_id = trace_id

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code}]"


class InvalidArgument(AegisApiError):
    """The request is wrong; `violations` says where."""


class NotFound(AegisApiError):
    """The named resource does not exist, or belongs to another tenant."""


class AlreadyExists(AegisApiError):
    """Something else has the name or the request id."""


class FailedPrecondition(AegisApiError):
    """The request is right, but the state of the system forbids it."""


class Aborted(AegisApiError):
    """The work broke off, for example because a child process died or somebody else was quicker."""


class PermissionDenied(AegisApiError):
    """The caller is known and may not do this."""


class Unauthenticated(AegisApiError):
    """No valid certificate or token."""


class ResourceExhausted(AegisApiError):
    """A limit is reached; `retry_after` says when to try again."""


class DeadlineExceeded(AegisApiError):
    """The time was up; the work has stopped."""


class Cancelled(AegisApiError):
    """Somebody cancelled the call."""


class Unavailable(AegisApiError):
    """No service could be reached, or it cannot answer now; trying again may help."""


class DataLoss(AegisApiError):
    """What came is damaged: it is not what its digest says."""


BY_CODE: Final[Mapping[str, type[AegisApiError]]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "OUT_OF_RANGE": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Aborted,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": Unauthenticated,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "DATA_LOSS": DataLoss,
    "UNAVAILABLE": Unavailable,
}
"""Canonical code to class; the codes that are missing, such as INTERNAL, give `AegisApiError` itself."""
