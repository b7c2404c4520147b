"""Which gRPC method each MCP request stands for: its access rule, its deadline, its name in the audit log."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.responses import JSONResponse, Response

from aegis_agent.adapters.http.errors import http_status
from aegis_agent.adapters.http.routes import Operation, Request
from aegis_agent.adapters.http.weight import check_weight
from aegis_common.errors import AegisError, ErrorKind

LIST_TOOLS: Final = "/aegis.agent.v1.AgentService/ListTools"
DISPATCH: Final = "/aegis.agent.v1.AgentService/Dispatch"
LIST_ARTIFACTS: Final = "/aegis.agent.v1.ArtifactService/ListArtifacts"
DOWNLOAD_ARTIFACT: Final = "/aegis.agent.v1.ArtifactService/DownloadArtifact"
GET_JOB: Final = "/aegis.agent.v1.JobService/GetJob"
CANCEL_JOB: Final = "/aegis.agent.v1.JobService/CancelJob"

METHODS: Final[Mapping[str, str]] = {
    "tools/call": DISPATCH,
    "resources/list": LIST_ARTIFACTS,
    "resources/read": DOWNLOAD_ARTIFACT,
    "tasks/get": GET_JOB,
    "tasks/cancel": CANCEL_JOB,
    "tasks/update": GET_JOB,
}
"""JSON-RPC method to gRPC method; whatever is not here asks for no more than the list of tools does."""

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_ID: Final = "aegis.jsonrpc_id"
_LARGE_BYTES: Final = 128 << 10
_NOTE_CHARS: Final = 128
_CALLERS_FAULT: Final = frozenset(
    {
        code_pb2.INVALID_ARGUMENT,
        code_pb2.UNAUTHENTICATED,
        code_pb2.PERMISSION_DENIED,
        code_pb2.NOT_FOUND,
        code_pb2.FAILED_PRECONDITION,
    }
)


class MessageNotJson(AegisError):
    """A message that Python's parser takes, and others do not."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "MESSAGE_NOT_JSON"


def grpc_method_of(method: str) -> str:
    """Return the gRPC method for a JSON-RPC method."""
    return METHODS.get(method, LIST_TOOLS)


async def operation_of(request: Request) -> Operation:
    """Say what a POST to the MCP endpoint asks for; a body that is no JSON-RPC request asks for nothing.

    Raises:
        MessageTooComplex, MessageNotUtf8: Reading it would take too long, or that cannot be told.
        MessageNotJson: Others would not read it.
    """
    body = await request.body()
    await check_weight(body)
    message = await asyncio.to_thread(_parsed, body) if len(body) > _LARGE_BYTES else _parsed(body)
    method = _text(message, "method")
    params = _mapping(message, "params")
    identifier = message.get("id")
    notes = {"mcp": method} if method else {}
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        # No request: nothing of what it names is done, and the log must not say that it was.
        return Operation(LIST_TOOLS, notes, "")
    request.state[_ID] = identifier
    if method == "tools/call":
        notes["tool"] = _text(params, "name")
    return Operation(grpc_method_of(method), notes, _text(_mapping(params, "_meta"), "traceparent"))


def error_response(status: status_pb2.Status, request: Request) -> Response:
    """Return the refusal of a whole request: the HTTP status, and a JSON-RPC error for the client to show."""
    error = {
        "code": INVALID_REQUEST if status.code in _CALLERS_FAULT else INTERNAL_ERROR,
        "message": status.message,
        "data": json_format.MessageToDict(status),
    }
    body = {"jsonrpc": "2.0", "id": request.state.get(_ID), "error": error}
    return JSONResponse(body, http_status(status))


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        message = json.loads(body, parse_constant=_no_constant)
        if _SURROGATE.search(body):
            json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise MessageNotJson("the message has half a surrogate pair, which is no character") from error
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _no_constant(name: str) -> float:
    raise MessageNotJson(f"{name} is no number of JSON")


def _mapping(message: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = message.get(key)
    return value if isinstance(value, dict) else {}


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key)
    return value[:_NOTE_CHARS] if isinstance(value, str) else ""
