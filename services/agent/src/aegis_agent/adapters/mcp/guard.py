"""What stands around every MCP request inside the SDK: the call that it belongs to, and how it ended."""

from __future__ import annotations

from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST

from aegis_agent.adapters.http.exchange import CALL, TRANSPORT, HttpTransport
from aegis_agent.adapters.mcp.errors import protocol_error
from aegis_agent.adapters.mcp.operations import grpc_method_of
from aegis_common.errors import AegisError
from aegis_common.rpc.call import Call, enter_call
from aegis_common.rpc.errors import CODES, GRPC_CODES

_MISMATCH: Final = "the request is not the one that was authorised: one JSON-RPC request to a POST"


async def guard(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Serve a request as part of its call, when it is the one for which the call was authorised.

    The SDK may run it in a task of its own, which knows nothing of the call.
    """
    call = _call(ctx)
    if ctx.request_id is not None and call.rule.path != grpc_method_of(ctx.method):
        raise MCPError(INVALID_REQUEST, _MISMATCH)
    enter_call(call)
    try:
        return await call_next(ctx)
    except AegisError as error:
        failed(ctx, error)
        raise protocol_error(error) from error


def failed(ctx: ServerRequestContext[Any, Any], error: AegisError) -> None:
    """Note for the audit log and the span what became of a request that HTTP calls a success."""
    transport: HttpTransport = ctx.request.scope[TRANSPORT]  # type: ignore[union-attr]
    transport.set_code(GRPC_CODES[CODES[error.kind]])
    _call(ctx).reason = error.reason


def _call(ctx: ServerRequestContext[Any, Any]) -> Call:
    call: Call = ctx.request.scope[CALL]  # type: ignore[union-attr]
    return call
