"""The OpenAPI document: one operation for each HTTP mapping of each public method."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from aegis_common.rpc.access import HttpBinding, MethodRule, descriptor_pool_of_set, method_table
from aegis_gateway import http_template
from aegis_gateway.openapi.limits import rules_of
from aegis_gateway.openapi.schemas import WELL_KNOWN, Json, Schemas, is_required
from aegis_gateway.openapi.source import comments
from aegis_gateway.routes import gives_raw_body, takes_raw_body

_ERROR: Final = {"$ref": "#/components/responses/Error"}
_DESCRIPTION: Final = """\
Every path is the HTTP form of a gRPC method; the same address also answers gRPC, gRPC-Web and reflection.
Unknown query parameters are refused; unknown fields of a JSON body are ignored."""
_STREAM: Final = """\
Streams: one JSON object a line or, with `accept: text/event-stream`, one event each. Over HTTP/1.1 a broken
stream looks like a clean end: only the terminal event says that it is complete."""

_RAW_STREAM: Final = """\
Over HTTP/1.1 a broken answer looks like a whole one: compare its size or SHA-256."""
_RAW: Final[Json] = {
    "type": "string",
    "contentMediaType": "application/octet-stream",
    "description": "The content itself; `content-type` is its media type.",
}
_RAW_ANSWER: Final[Json] = {
    "description": "OK: the content itself, with its media type.",
    "content": {"*/*": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}},
}


@cache
def openapi_json() -> str:
    """Return the document as text; equal descriptor sets give equal bytes."""
    return json.dumps(openapi_document(), indent=1, ensure_ascii=False) + "\n"


def openapi_document() -> Json:
    """Return the OpenAPI 3.1 document of all public methods that have an HTTP mapping."""
    schemas = Schemas()
    error = schemas.message(descriptor_pool_of_set().FindMessageTypeByName("google.rpc.Status"))
    rules = [rule for _, rule in sorted(method_table().items()) if rule.http and not rule.mesh_internal]
    paths: dict[str, Json] = _plain_paths()
    for rule in rules:
        for number, binding in enumerate(rule.http):
            path = http_template.parse(binding.path).openapi
            paths.setdefault(path, {})[binding.verb] = _operation(rule, binding, number, schemas)
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
            "schemas": schemas.components(),
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


def _plain_paths() -> dict[str, Json]:
    return {
        "/healthz": {
            "get": _plain("Says whether the services behind the gateway are healthy.", "text/plain", "503")
        },
        "/openapi.json": {"get": _plain("Returns this document.", "application/json")},
        "/descriptors.binpb": {
            "get": _plain("Returns the API as a google.protobuf.FileDescriptorSet.", "application/x-protobuf")
        },
    }


def _plain(text: str, media_type: str, *failures: str) -> Json:
    responses: Json = {"200": {"description": "OK", "content": {media_type: {}}}}
    responses |= {code: {"description": "A service is not healthy."} for code in failures}
    return {"summary": text, "security": [], "responses": responses}


def _operation(rule: MethodRule, binding: HttpBinding, number: int, schemas: Schemas) -> Json:
    method: MethodDescriptor = (
        descriptor_pool_of_set().FindServiceByName(rule.service).methods_by_name[rule.method]
    )
    template = http_template.parse(binding.path)
    service = rule.service.rpartition(".")[2]
    parameters = [*_path_parameters(method.input_type, binding)]
    operation: Json = {
        "operationId": f"{service}_{rule.method}" + (f"_{number + 1}" if number else ""),
        "tags": [rule.service],
        "summary": comments().get(method.full_name, rule.method).partition("\n\n")[0].replace("\n", " "),
        "description": _description(rule, comments().get(method.full_name, "")),
        "parameters": parameters,
    }
    if rule.public:
        operation["security"] = []
    if binding.body:
        raw = takes_raw_body(rule)
        body = _RAW if raw else _body(method.input_type, binding.body, template.fields, schemas)
        kind = "*/*" if raw else "application/json"
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
    if binding.body != "*":
        bound = template.fields | {binding.body}
        parameters += _query_parameters(method.input_type, bound, "", schemas, ())
    parameters.append({"$ref": "#/components/parameters/GrpcTimeout"})
    answer = _RAW_ANSWER if gives_raw_body(rule) else _answer(rule, schemas.message(method.output_type))
    operation["responses"] = {"200": answer, "default": _ERROR}
    operation["x-aegis-roles"] = sorted(rule.roles)
    return operation


def _description(rule: MethodRule, comment: str) -> str:
    parts = [comment]
    if gives_raw_body(rule):
        parts.append(_RAW_STREAM)
    elif rule.server_streaming:
        parts.append(_STREAM)
    if rule.roles:
        parts.append(f"Roles: {', '.join(f'`{role}`' for role in sorted(rule.roles))}.")
    parts.append(f"Deadline: {rule.default_timeout_s:g} s by default, {rule.max_timeout_s:g} s at most.")
    return "\n\n".join(part for part in parts if part)


def _answer(rule: MethodRule, schema: Json) -> Json:
    if not rule.server_streaming:
        return {"description": "OK", "content": {"application/json": {"schema": schema}}}
    content = {"application/json": {"schema": schema}, "text/event-stream": {"schema": {"type": "string"}}}
    return {"description": "OK: a stream of these objects.", "content": content}


def _body(message: Descriptor, body: str, bound: frozenset[str], schemas: Schemas) -> Json:
    if body != "*":
        return schemas.field(message.fields_by_name[body])
    if any(field.name in bound for field in message.fields):
        return schemas.fields(message, without=bound)
    return schemas.message(message)


def _path_parameters(message: Descriptor, binding: HttpBinding) -> Iterator[Json]:
    for name, field_path, prefix in http_template.parse(binding.path).parameters:
        field = _find(message, field_path)
        where = f"What follows `{prefix}` in `{field.json_name}`. " if prefix else ""
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": where + comments().get(field.full_name, ""),
            "schema": {"type": "string", "pattern": _below(prefix, rules_of(field))},
        }


def _below(prefix: str, rules: Any) -> str:
    """Return the pattern of what follows *prefix* in a resource name."""
    pattern = rules.string.pattern if rules is not None and rules.HasField("string") else ""
    if prefix and pattern.startswith("^" + prefix):
        return "^" + pattern.removeprefix("^" + prefix)
    return "^[^/]+$"


def _find(message: Descriptor, path: str) -> FieldDescriptor:
    name, _, rest = path.partition(".")
    field = message.fields_by_name[name]
    return _find(field.message_type, rest) if rest and field.message_type is not None else field


def _query_parameters(
    message: Descriptor, bound: frozenset[str], prefix: str, schemas: Schemas, above: tuple[str, ...]
) -> Iterator[Json]:
    for field in message.fields:
        if prefix + field.name in bound or message.full_name in above:
            continue
        inner = field.message_type
        if inner is not None and inner.full_name not in WELL_KNOWN:
            if not field.is_repeated:
                yield from _query_parameters(
                    inner, bound, f"{prefix}{field.name}.", schemas, (*above, message.full_name)
                )
            continue
        schema = schemas.field(field)
        text = schema.pop("description", "")
        yield {
            "name": prefix + field.json_name,
            "in": "query",
            "required": is_required(field),
            "description": text,
            "schema": schema,
        }
