"""Parts in protobuf: the domain's parts out of a request, and a result's parts into an answer."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2

from aegis.agent.v1 import part_pb2 as pb
from aegis_agent.domain.parts import Part

_EXACT: Final = float(1 << 53)


def from_protos(parts: Iterable[pb.Part]) -> list[Part]:
    """Return the domain's parts; whole numbers of a Struct become integers again."""
    return [Part(_content(part), part.name, part.media_type, part.filename) for part in parts]


def to_protos(value: Any) -> list[pb.Part]:
    """Return a result as parts: a JSON object, a text, raw bytes, or `{"result": v}` for anything else."""
    if isinstance(value, str):
        return [pb.Part(text=value)]
    if isinstance(value, bytes):
        return [pb.Part(inline_bytes=value)]
    return [pb.Part(json=to_struct(value if isinstance(value, Mapping) else {"result": value}))]


def to_struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return a JSON object as a Struct; raw bytes inside become base64 text."""
    struct = struct_pb2.Struct()
    for name, item in value.items():
        _put(struct.fields[name], item)
    return struct


def _content(part: pb.Part) -> str | bytes | dict[str, Any]:
    kind = part.WhichOneof("content")
    if kind == "json":
        return {name: _value(item) for name, item in part.json.fields.items()}
    return part.inline_bytes if kind == "inline_bytes" else part.text


def _value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    if kind == "struct_value":
        return {name: _value(item) for name, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _put(target: struct_pb2.Value, value: Any) -> None:
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif isinstance(value, bytes):
        target.string_value = base64.b64encode(value).decode()
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, Mapping):
        target.struct_value.SetInParent()
        for name, item in value.items():
            _put(target.struct_value.fields[name], item)
    else:
        target.list_value.SetInParent()
        for item in value:
            _put(target.list_value.values.add(), item)
