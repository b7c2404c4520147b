"""An error as MCP has it: of the request (JSON-RPC), or of the tool, which the model should see and mend."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import json_format
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, CallToolResult, TextContent

from aegis_agent.domain.call import plain
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.rpc.errors import to_status

ERROR_META: Final = "aegis.dev/error"
"""Key of a tool error's `_meta` under which its google.rpc.Status stands."""
_OF_THE_REQUEST: Final = {
    ErrorKind.NOT_FOUND: INVALID_PARAMS,
    ErrorKind.INVALID_ARGUMENT: INVALID_PARAMS,
    ErrorKind.PERMISSION_DENIED: INVALID_REQUEST,
    ErrorKind.UNAUTHENTICATED: INVALID_REQUEST,
}
_NO_TOOL: Final = frozenset({"UNKNOWN_TOOL", "TOOL_NOT_ALLOWED"})


def protocol_error(error: AegisError) -> MCPError:
    """Return the JSON-RPC error of a request that cannot be served."""
    code = _OF_THE_REQUEST.get(error.kind, INTERNAL_ERROR)
    data = error_data(error)
    if "uri" in error.metadata:  # where clients look for it
        data["uri"] = error.metadata["uri"]
    return MCPError(code, plain(error.message), data)


def is_of_the_tool(error: AegisError) -> bool:
    """Tell whether an error of `tools/call` is the tool's: any but that there is no such tool."""
    return error.reason not in _NO_TOOL


def tool_error(error: AegisError) -> CallToolResult:
    """Return the result of a call that failed, with what went wrong in words and as a google.rpc.Status."""
    violations = [f"{path}: {text}" for path, text in error.violations.items()]
    text = "\n".join([error.message, *violations]) if len(violations) > 1 else error.message
    return CallToolResult(
        content=[TextContent(text=plain(text))], is_error=True, _meta={ERROR_META: error_data(error)}
    )


def error_data(error: AegisError) -> dict[str, Any]:
    """Return an error as JSON google.rpc.Status, for clients that want more than its words."""
    return json_format.MessageToDict(to_status(error))
