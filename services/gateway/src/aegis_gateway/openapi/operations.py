"""One operation for each HTTP mapping of a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from aegis_common.rpc.access import HttpBinding, MethodRule
from aegis_gateway import http_template
from aegis_gateway.openapi.limits import rules_of
from aegis_gateway.openapi.schemas import WELL_KNOWN, Json, Schemas, is_required
from aegis_gateway.openapi.source import comments
from aegis_gateway.routes import gives_raw_body, method_of, takes_raw_body

GRPC_TIMEOUT: Final[Json] = {"$ref": "#/components/parameters/GrpcTimeout"}
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


def operation(rule: MethodRule, binding: HttpBinding, number: int, schemas: Schemas) -> Json:
    """Return the operation of a method's HTTP mapping, of which it is the *number*th from 0."""
    method = method_of(rule)
    template = http_template.parse(binding.path)
    found = outline(rule, number)
    parameters = found["parameters"] = [*_path_parameters(method.input_type, binding)]
    if binding.body:
        raw = takes_raw_body(rule)
        body = _RAW if raw else _body(method.input_type, binding.body, template.fields, schemas)
        kind = "*/*" if raw else "application/json"
        found["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
    if binding.body != "*":
        bound = template.fields | {binding.body}
        parameters += _query_parameters(method.input_type, bound, "", schemas, ())
    parameters.append(GRPC_TIMEOUT)
    answer = _RAW_ANSWER if gives_raw_body(rule) else _answer(rule, schemas.message(method.output_type))
    found["responses"] = {"200": answer, "default": {"$ref": "#/components/responses/Error"}}
    return found


def outline(rule: MethodRule, number: int) -> Json:
    """Return what every operation of a method says: identifier, text, who may call."""
    name = rule.path[1:].replace("/", ".")
    service = rule.service.rpartition(".")[2]
    found: Json = {
        "operationId": f"{service}_{rule.method}" + (f"_{number + 1}" if number else ""),
        "tags": [rule.service],
        "summary": comments().get(name, rule.method).partition("\n\n")[0].replace("\n", " "),
        "description": _description(rule, comments().get(name, "")),
        "x-aegis-roles": sorted(rule.roles),
    }
    return found | ({"security": []} if rule.public else {})


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
