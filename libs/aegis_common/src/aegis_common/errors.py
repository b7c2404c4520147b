"""Errors that services raise and the edge turns into gRPC statuses.

Nothing here imports gRPC, so a domain module may raise these.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum, StrEnum
from typing import ClassVar


class ErrorKind(Enum):
    """What a caller can do about an error; one canonical gRPC code each."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    PERMISSION_DENIED = "permission_denied"
    UNAUTHENTICATED = "unauthenticated"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class Scope(StrEnum):
    """Where a limit counts."""

    CALL = "call"
    """Each call by itself."""
    REPLICA = "replica"
    """All calls in one process; a second replica has the same limit once more."""
    FLEET = "fleet"
    """All replicas together."""


RETRYABLE = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.RESOURCE_EXHAUSTED})
"""Kinds whose status always carries `google.rpc.RetryInfo`."""


class AegisError(Exception):
    """An error the caller is meant to see.

    Subclasses set `kind` and `reason`, and `scope` where they tell of a limit: it is in the metadata. The
    message and the metadata reach the caller, so they hold no secrets; every value that the message mentions
    is in the metadata too.

    Args:
        message: What is wrong, which value, how to mend it.
        violations: For INVALID_ARGUMENT: field path to what is wrong with it.
        retry_after: When trying again may help; only for the kinds in `RETRYABLE`.
        metadata: Machine-readable values, sent as `google.rpc.ErrorInfo.metadata`.
    """

    kind: ClassVar[ErrorKind]
    reason: ClassVar[str]
    scope: ClassVar[Scope | None] = None

    def __init__(
        self,
        message: str,
        *,
        violations: dict[str, str] | None = None,
        retry_after: timedelta | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations or {}
        self.retry_after = retry_after
        self.metadata = {**metadata, "scope": self.scope.value} if self.scope else metadata


class InvalidArgument(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class InvalidPageToken(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_PAGE_TOKEN"


class DeadlineExceeded(AegisError):
    kind = ErrorKind.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Unauthenticated(AegisError):
    kind = ErrorKind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(AegisError):
    kind = ErrorKind.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class ConfigurationError(AegisError):
    """A setting, file or certificate that start-up cannot work with; `main` prints it and exits with 2."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "CONFIGURATION_ERROR"
