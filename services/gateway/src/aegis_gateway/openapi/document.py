"""The OpenAPI document: every HTTP operation that the gateway serves."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from typing import Final

from aegis_common.rpc.access import descriptor_pool_of_set, method_table
from aegis_gateway import http_template
from aegis_gateway.openapi.inference import InferenceForm
from aegis_gateway.openapi.operations import operation
from aegis_gateway.openapi.plain import mcp_paths, plain_paths, sign_in_paths
from aegis_gateway.openapi.schemas import Json, Schemas
from aegis_gateway.openapi.source import comments

_DESCRIPTION: Final = """\
Every path under `/v1` is the HTTP form of a gRPC method; the same address also answers gRPC, gRPC-Web and
reflection. There, unknown query parameters are refused and unknown fields of a JSON body are ignored. `/v2`
is the Open Inference Protocol, `/mcp` the Model Context Protocol."""


@cache
def openapi_json(*, agent_http: bool = True, sign_in: bool = True) -> str:
    """Return the document as text; equal descriptor sets give equal bytes. Arguments as of the document."""
    document = openapi_document(agent_http=agent_http, sign_in=sign_in)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def openapi_document(*, agent_http: bool = True, sign_in: bool = True) -> Json:
    """Return the OpenAPI 3.1 document.

    Args:
        agent_http: Whether the agent's HTTP listener is routed: inference and MCP.
        sign_in: Whether clients of MCP are told where to get a token.
    """
    schemas = Schemas()
    error = schemas.message(descriptor_pool_of_set().FindMessageTypeByName("google.rpc.Status"))
    inference = InferenceForm(error)
    rules = [
        rule
        for _, rule in sorted(method_table().items())
        if not rule.mesh_internal and (rule.http or (agent_http and rule.rest))
    ]
    paths = plain_paths() | (mcp_paths() if agent_http else {}) | (sign_in_paths() if sign_in else {})
    for rule in rules:
        for number, binding in enumerate(rule.http):
            path = http_template.parse(binding.path).openapi
            paths.setdefault(path, {})[binding.verb] = operation(rule, binding, number, schemas)
        for number, binding in enumerate(rule.rest if agent_http else ()):
            paths.setdefault(binding.path, {})[binding.verb] = inference.operation(rule, binding, number)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AEGIS",
            "version": version("aegis-protos"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"mtls": []}],
        "tags": [
            {"name": name, "description": comments().get(name, "")}
            for name in sorted({rule.service for rule in rules})
        ],
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {
            "schemas": schemas.components() | (inference.components() if agent_http else {}),
            "responses": {"Error": _error_response(error)},
            "parameters": {"GrpcTimeout": _GRPC_TIMEOUT},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


_GRPC_TIMEOUT: Final[Json] = {
    "name": "grpc-timeout",
    "in": "header",
    "description": "Deadline of the call: digits and a unit, H, M, S, m (ms), u (us) or n (ns). "
    "The work itself stops then.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$", "examples": ["30S"]},
}
_SECURITY_SCHEMES: Final[Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Token of the deployment's issuer; its roles decide.",
    },
    "mtls": {
        "type": "mutualTLS",
        "description": "Client certificate, on the machines' port; the roles of its identity decide.",
    },
}


def _error_response(schema: Json) -> Json:
    text = "The call failed. `details` holds google.rpc.ErrorInfo and, at times, BadRequest or RetryInfo."
    return {"description": text, "content": {"application/json": {"schema": schema}}}
