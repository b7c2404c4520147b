"""How an error looks on HTTP: the status that gRPC transcoding gives it, and a JSON google.rpc.Status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2
from starlette.responses import Response

from aegis_agent.adapters.http.room import BodiesFull, ResponseLost, ResponsesFull
from aegis_agent.adapters.http.routes import BodyTooLarge
from aegis_common.rpc.errors import DETAILS_KEY, from_status

HTTP_STATUS: Final[Mapping[int, int]] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.UNKNOWN: 500,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DATA_LOSS: 500,
    code_pb2.UNAUTHENTICATED: 401,
}
_OF_REASONS: Final[Mapping[str, int]] = {
    BodyTooLarge.reason: 413,
    BodiesFull.reason: 503,
    ResponsesFull.reason: 503,
    ResponseLost.reason: 503,
}


def http_status(status: status_pb2.Status) -> int:
    """Return the HTTP status of an error; what is wrong with a body as such has one of its own."""
    return _OF_REASONS.get(from_status(status).reason) or HTTP_STATUS.get(status.code, 500)


def error_headers(status: status_pb2.Status, challenge: str) -> dict[str, str]:
    """Return an error's headers: `retry-after`, and `www-authenticate` where the caller has to sign in.

    Args:
        status: The error.
        challenge: Parameters of the challenge, for example `resource_metadata="https://..."`, or empty.
    """
    headers = {}
    details = from_status(status)
    if details.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(details.retry_after.total_seconds())))
    if status.code == code_pb2.UNAUTHENTICATED:
        fault = 'error="invalid_token"' if details.reason.startswith("TOKEN_") else ""
        headers["www-authenticate"] = f"Bearer {', '.join(filter(None, [challenge, fault]))}".strip()
    return headers


def error_response(status: status_pb2.Status) -> Response:
    """Return an error as the gateway writes the errors of the gRPC methods."""
    body = json_format.MessageToJson(status, indent=None, always_print_fields_with_no_presence=True)
    return Response(body, http_status(status), media_type="application/json")


def status_of(status: grpc.Status) -> status_pb2.Status:
    """Return what a layer of the chain ended a call with."""
    for key, value in status.trailing_metadata or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=status.code.value[0], message=status.details)
