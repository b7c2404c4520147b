"""The one place where an AegisError becomes a gRPC status, and a status an AegisError again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from aegis_common.errors import RETRYABLE, AegisError, ErrorKind
from aegis_common.rpc.limits import MESSAGE_BYTES, clipped, clipped_pairs

DOMAIN: Final = "aegis.dev"
DETAILS_KEY: Final = "grpc-status-details-bin"
DEFAULT_RETRY: Final = timedelta(seconds=1)

CODES: Final[dict[ErrorKind, int]] = {
    ErrorKind.INVALID_ARGUMENT: code_pb2.INVALID_ARGUMENT,
    ErrorKind.NOT_FOUND: code_pb2.NOT_FOUND,
    ErrorKind.ALREADY_EXISTS: code_pb2.ALREADY_EXISTS,
    ErrorKind.FAILED_PRECONDITION: code_pb2.FAILED_PRECONDITION,
    ErrorKind.ABORTED: code_pb2.ABORTED,
    ErrorKind.PERMISSION_DENIED: code_pb2.PERMISSION_DENIED,
    ErrorKind.UNAUTHENTICATED: code_pb2.UNAUTHENTICATED,
    ErrorKind.RESOURCE_EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    ErrorKind.DEADLINE_EXCEEDED: code_pb2.DEADLINE_EXCEEDED,
    ErrorKind.CANCELLED: code_pb2.CANCELLED,
    ErrorKind.UNAVAILABLE: code_pb2.UNAVAILABLE,
    ErrorKind.INTERNAL: code_pb2.INTERNAL,
}
KINDS: Final = {code: kind for kind, code in CODES.items()}
GRPC_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


class InternalError(AegisError):
    """What a caller sees of an error that nobody foresaw."""

    kind = ErrorKind.INTERNAL
    reason = "INTERNAL"


class RemoteError(AegisError):
    """An error that another service answered with; passing it on keeps its kind, reason and metadata."""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(
            details.message,
            violations=details.violations,
            retry_after=details.retry_after,
            **details.metadata,
        )
        self.kind = details.kind  # type: ignore[misc]  # a remote error has its kind per instance
        self.reason = details.reason  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """A status, taken apart."""

    kind: ErrorKind
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)
    retry_after: timedelta | None = None


def to_status(error: AegisError) -> status_pb2.Status:
    """Return a `google.rpc.Status` with ErrorInfo always, BadRequest and RetryInfo where they apply.

    Long texts are cut, and what does not fit is left out, so that the status fits into the trailers.
    """
    metadata = clipped_pairs(error.metadata.items())
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=path, description=text)
            for path, text in clipped_pairs(error.violations.items()).items()
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.kind in RETRYABLE:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(DEFAULT_RETRY if error.retry_after is None else error.retry_after)
        details.append(info)
    message = clipped(error.message, MESSAGE_BYTES)
    return status_pb2.Status(code=CODES[error.kind], message=message, details=_packed(details))


def _packed(details: Iterable[Message]) -> list[any_pb2.Any]:
    result = []
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        result.append(packed)
    return result


def from_status(status: status_pb2.Status) -> ErrorDetails:
    """Take a status apart; without ErrorInfo the reason is the name of the code."""
    kind = KINDS.get(status.code, ErrorKind.INTERNAL)
    reason, metadata = kind.name, {}
    violations: dict[str, str] = {}
    retry_after: timedelta | None = None
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations = {v.field: v.description for v in bad.field_violations}
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
    return ErrorDetails(kind, reason, status.message, metadata, violations, retry_after)


def details_of(error: grpc.RpcError) -> ErrorDetails:
    """Take a failed call apart, sync or aio, with whatever details the server sent."""
    call: Any = error
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    code = call.code()
    kind = KINDS.get(code.value[0], ErrorKind.INTERNAL) if code is not None else ErrorKind.INTERNAL
    return ErrorDetails(kind, kind.name, call.details() or "the call failed without a message")


def remote_error(error: grpc.RpcError) -> RemoteError:
    """Return a failed call's error as one that can be raised on to our own caller."""
    return RemoteError(details_of(error))
