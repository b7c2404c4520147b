"""Paths that stand for no single method: documents, health, MCP and how its clients sign in."""

from __future__ import annotations

from typing import Final

from aegis_gateway.oauth import MCP_PATH, PROTECTED_RESOURCE
from aegis_gateway.openapi.schemas import Json

_NO_CREDENTIALS: Final[list[Json]] = []
_MCP: Final = """\
The tools over the Model Context Protocol, streamable HTTP without sessions: one JSON-RPC message a request.

A request has the access rule and the deadline of the gRPC method that it stands for: of `Dispatch` for
`tools/call`, of `GetJob` and `CancelJob` for tasks, of `ListArtifacts` and `DownloadArtifact` for resources,
and of `ListTools` for the rest. From a page of another origin than the deployment's it is refused."""
_MCP_HEADERS: Final = {
    "mcp-protocol-version": "Version of the protocol.",
    "mcp-method": "`method` of the body again; needed from version 2026-07-28 on.",
    "mcp-name": "Name of the tool or URI of the resource again; needed with methods that have one.",
}
_JSON_RPC: Final[Json] = {
    "type": "object",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer"], "description": "Missing from a notification."},
        "method": {"type": "string", "examples": ["tools/list", "tools/call"]},
        "params": {"type": "object"},
    },
    "required": ["jsonrpc", "method"],
}
_JSON_RPC_ANSWER: Final[Json] = {
    "type": "object",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer", "null"], "description": "Of the request."},
        "result": {"type": "object"},
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "data": {"description": "With an error of ours, google.rpc.Status as JSON."},
            },
            "required": ["code", "message"],
        },
    },
    "required": ["jsonrpc"],
}
_RESOURCE_METADATA: Final[Json] = {
    "type": "object",
    "properties": {
        "resource": {"type": "string", "format": "uri", "description": "Audience of the token."},
        "resource_name": {"type": "string"},
        "authorization_servers": {"type": "array", "items": {"type": "string", "format": "uri"}},
        "bearer_methods_supported": {"type": "array", "items": {"type": "string"}},
        "scopes_supported": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["resource", "resource_name", "authorization_servers", "bearer_methods_supported"],
}


def plain_paths() -> dict[str, Json]:
    """Return what the gateway itself answers."""
    return {
        "/healthz": {
            "get": _plain("Says whether the services behind the gateway are healthy.", "text/plain", "503")
        },
        "/openapi.json": {"get": _plain("Returns this document.", "application/json")},
        "/descriptors.binpb": {
            "get": _plain("Returns the API as a google.protobuf.FileDescriptorSet.", "application/x-protobuf")
        },
    }


def mcp_paths() -> dict[str, Json]:
    """Return the MCP endpoint."""
    answer = {
        "application/json": {"schema": _JSON_RPC_ANSWER},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    refused = {"application/json": {"schema": _JSON_RPC_ANSWER}}
    operation = {
        "summary": "Serves one message of the Model Context Protocol.",
        "description": _MCP,
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in _MCP_HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _JSON_RPC}}},
        "responses": {
            "200": {
                "description": "The answer, or a stream of messages that ends with it.",
                "content": answer,
            },
            "202": {"description": "A notification has been taken."},
            "default": {"description": "The request was refused.", "content": refused},
        },
    }
    return {MCP_PATH: {"post": operation}}


def sign_in_paths() -> dict[str, Json]:
    """Return where clients of MCP learn how to get a token."""
    text = "Says who issues tokens for the MCP endpoint (RFC 9728)."
    content = {"application/json": {"schema": _RESOURCE_METADATA}}
    operation = {
        "summary": text,
        "security": _NO_CREDENTIALS,
        "responses": {"200": {"description": "OK", "content": content}},
    }
    root = PROTECTED_RESOURCE.removesuffix(MCP_PATH)
    return {path: {"get": operation} for path in (root, PROTECTED_RESOURCE)}


def _plain(text: str, media_type: str, *failures: str) -> Json:
    responses: Json = {"200": {"description": "OK", "content": {media_type: {}}}}
    responses |= {code: {"description": "A service is not healthy."} for code in failures}
    return {"summary": text, "security": _NO_CREDENTIALS, "responses": responses}
