"""From a gRPC status with `google.rpc` details to one of our errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from aegis_client.errors import BY_CODE, AegisApiError

_DETAILS_KEY: Final = "grpc-status-details-bin"


def api_error(error: grpc.RpcError, trace_id: str) -> AegisApiError:
    """Return the error that a failed call of grpc or grpc.aio stands for."""
    status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == _DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_error(status, trace_id)


def status_error(status: status_pb2.Status, trace_id: str) -> AegisApiError:
    """Return the error that a `google.rpc.Status` stands for."""
    reason, metadata, violations, retry_after = "", {}, {}, None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(request):
            violations = {item.field: item.description for item in request.field_violations}
        elif detail.Unpack(retry):
            retry_after = timedelta(microseconds=retry.retry_delay.ToMicroseconds())
    code = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    return BY_CODE.get(code, AegisApiError)(
        status.message or "the service gave no message",
        code=code,
        reason=reason,
        metadata=metadata,
        violations=violations,
        retry_after=retry_after,
        trace_id=trace_id,
    )
