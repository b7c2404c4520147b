"""What stands around every MCP request inside the SDK: the call that it belongs to, and how it ended."""

from __future__ import annotations

import logging
from typing import Any, Final

import grpc
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
)
from pydantic import ValidationError
from starlette.types import Scope

from aegis_agent.adapters.http.exchange import CALL, TRANSPORT, HttpTransport
from aegis_agent.adapters.mcp.errors import protocol_error
from aegis_agent.adapters.mcp.operations import grpc_method_of
from aegis_common.errors import AegisError
from aegis_common.rpc.call import Call, enter_call
from aegis_common.rpc.errors import CODES, GRPC_CODES

_BAD_REQUEST, _FAILED = 400, 500
_INTERNAL: Final = "internal error; the service's log has the details"
_REFUSALS: Final = {
    METHOD_NOT_FOUND: ("MCP_METHOD_NOT_FOUND", grpc.StatusCode.UNIMPLEMENTED),
    INVALID_PARAMS: ("MCP_INVALID_PARAMS", grpc.StatusCode.INVALID_ARGUMENT),
    INVALID_REQUEST: ("MCP_INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT),
    HEADER_MISMATCH: ("MCP_HEADER_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
    MISSING_REQUIRED_CLIENT_CAPABILITY: ("MCP_CAPABILITY_MISSING", grpc.StatusCode.FAILED_PRECONDITION),
    INTERNAL_ERROR: ("INTERNAL", grpc.StatusCode.INTERNAL),
}
_log: Final = logging.getLogger(__name__)
_MISMATCH: Final = "the request is not the one that was authorised: one JSON-RPC request to a POST"


async def guard(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Serve a request as part of its call, when it is the one for which the call was authorised.

    The SDK may run it in a task of its own, which knows nothing of the call.
    """
    call = _call(ctx)
    if ctx.request_id is not None and call.rule.path != grpc_method_of(ctx.method):
        _refused(ctx, INVALID_REQUEST)
        raise MCPError(INVALID_REQUEST, _MISMATCH)
    enter_call(call)
    try:
        return await call_next(ctx)
    except AegisError as error:
        failed(ctx, error)
        raise protocol_error(error) from error
    except MCPError as error:
        _refused(ctx, error.error.code)
        raise
    except ValidationError:  # of the parameters: the SDK has the words for it
        _refused(ctx, INVALID_PARAMS)
        raise
    except Exception as error:  # the SDK would tell the client whatever it says
        _log.exception("unhandled error in %s", ctx.method)
        _refused(ctx, INTERNAL_ERROR)
        raise MCPError(INTERNAL_ERROR, _INTERNAL) from error


def failed(ctx: ServerRequestContext[Any, Any], error: AegisError) -> None:
    """Note for the audit log and the span what became of a request that HTTP calls a success."""
    transport: HttpTransport = ctx.request.scope[TRANSPORT]  # type: ignore[union-attr]
    transport.set_code(GRPC_CODES[CODES[error.kind]])
    _call(ctx).reason = error.reason


def refused_by_http(scope: Scope, status: int) -> None:
    """Note what became of a request that the SDK has refused before it came to the middleware."""
    transport: HttpTransport = scope[TRANSPORT]
    if status >= _BAD_REQUEST and transport.code() is None:
        transport.set_code(grpc.StatusCode.INVALID_ARGUMENT if status < _FAILED else grpc.StatusCode.INTERNAL)
        scope[CALL].reason = f"HTTP_{status}"


def _refused(ctx: ServerRequestContext[Any, Any], code: int) -> None:
    name, status = _REFUSALS.get(code, ("MCP_ERROR", grpc.StatusCode.INTERNAL))
    transport: HttpTransport = ctx.request.scope[TRANSPORT]  # type: ignore[union-attr]
    transport.set_code(status)
    _call(ctx).reason = name


def _call(ctx: ServerRequestContext[Any, Any]) -> Call:
    call: Call = ctx.request.scope[CALL]  # type: ignore[union-attr]
    return call
