"""Proto messages as JSON schemas, in the JSON mapping of proto3."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from aegis_gateway.openapi.limits import array_limits, item_rules, map_limits, rules_of, scalar_limits
from aegis_gateway.openapi.source import OUTPUT_ONLY, REQUIRED, behaviours, comments, option

Json = dict[str, Any]

_F = FieldDescriptor
# Proto3 JSON: 64-bit integers are strings, bytes are base64.
_SCALARS: Final[dict[int, Json]] = {
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.TYPE_FLOAT: {"type": "number", "format": "float"},
    _F.TYPE_INT32: {"type": "integer", "format": "int32"},
    _F.TYPE_SINT32: {"type": "integer", "format": "int32"},
    _F.TYPE_SFIXED32: {"type": "integer", "format": "int32"},
    _F.TYPE_UINT32: {"type": "integer", "format": "uint32"},
    _F.TYPE_FIXED32: {"type": "integer", "format": "uint32"},
    _F.TYPE_INT64: {"type": "string", "format": "int64"},
    _F.TYPE_SINT64: {"type": "string", "format": "int64"},
    _F.TYPE_SFIXED64: {"type": "string", "format": "int64"},
    _F.TYPE_UINT64: {"type": "string", "format": "uint64"},
    _F.TYPE_FIXED64: {"type": "string", "format": "uint64"},
}
WELL_KNOWN: Final[dict[str, Json]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["3.5s"],
    },
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
}


_PLAIN: Final[dict[str, Json]] = {
    "inference.InferParameter": {"type": ["boolean", "integer", "number", "string"]},
}


class Schemas:
    """Schemas of the messages and enums that were asked for, and of all that they need.

    Args:
        plain: The JSON of the inference protocol instead of proto3's: names as in the proto, and 64-bit
            integers as numbers.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self._found: dict[str, Json] = {}
        self._plain = plain
        self._known = WELL_KNOWN | (_PLAIN if plain else {})

    def put(self, name: str, schema: Json) -> None:
        """Set what the message *name* has for a schema."""
        self._found[name] = schema

    def components(self) -> dict[str, Json]:
        return {name: self._found[name] for name in sorted(self._found)}

    def message(self, message: Descriptor) -> Json:
        """Return a reference to the schema of *message*, or the schema itself for a well-known type."""
        if message.full_name in self._known:
            return dict(self._known[message.full_name])
        if message.full_name not in self._found:
            self._found[message.full_name] = {}  # a message may hold itself
            self._found[message.full_name] = self.fields(message)
        return _reference(message.full_name)

    def fields(self, message: Descriptor, *, without: frozenset[str] = frozenset()) -> Json:
        """Return the schema of *message* without the fields that the path of a request has set already."""
        fields = [field for field in message.fields if field.name not in without]
        schema: Json = {"type": "object"}
        if text := comments().get(message.full_name):
            schema["description"] = text
        schema["properties"] = {self._name(field): self.field(field) for field in fields}
        if required := [self._name(field) for field in fields if is_required(field)]:
            schema["required"] = required
        choices = [_one_of(oneof) for oneof in message.oneofs if _is_required_oneof(oneof)]
        if len(choices) == 1:
            schema |= choices[0]
        elif choices:
            schema["allOf"] = choices
        return schema

    def field(self, field: FieldDescriptor) -> Json:
        """Return the schema of one field: type, limits, comment."""
        rules = rules_of(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = self._single(field.message_type.fields_by_name["value"], None)
            schema: Json = {"type": "object", "additionalProperties": value} | map_limits(rules)
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field, item_rules(rules))} | array_limits(rules)
        else:
            schema = self._single(field, rules)
        if text := comments().get(field.full_name):
            schema["description"] = text
        if OUTPUT_ONLY in behaviours(field):
            schema["readOnly"] = True
        return schema

    def _single(self, field: FieldDescriptor, rules: Any) -> Json:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        scalar = dict(_SCALARS[field.type])
        if self._plain and scalar.get("format") in ("int64", "uint64"):
            scalar["type"] = "integer"
        return scalar | scalar_limits(rules)

    def _name(self, field: FieldDescriptor) -> str:
        return str(field.name if self._plain else field.json_name)

    def _enum(self, enum: EnumDescriptor) -> Json:
        if enum.full_name not in self._found:
            lines = [comments().get(enum.full_name, ""), ""]
            lines += [
                f"- `{value.name}`: {comments().get(f'{enum.full_name}.{value.name}', '')}"
                for value in enum.values
            ]
            names = [value.name for value in enum.values]
            self._found[enum.full_name] = {
                "type": "string",
                "enum": names,
                "description": "\n".join(lines).strip(),
            }
        return _reference(enum.full_name)


def is_required(field: FieldDescriptor) -> bool:
    rules = rules_of(field)
    return REQUIRED in behaviours(field) or bool(rules is not None and rules.required)


def _is_required_oneof(oneof: Any) -> bool:
    rules = option(oneof, "OneofOptions", "buf.validate.oneof")
    return bool(rules is not None and rules.required)


def _one_of(oneof: Any) -> Json:
    return {"oneOf": [{"required": [field.json_name]} for field in oneof.fields]}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
