"""Parts in protobuf: the domain's parts out of a request, and a result's parts into an answer."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2

from aegis.agent.v1 import part_pb2 as pb
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import InvalidToolOutput
from aegis_agent.domain.parts import ArtifactRef, Part

_EXACT: Final = float(1 << 53)
_MAX_DEPTH: Final = 84
"""Messages inside each other, 2 for a list and 3 for an object: readers of protobuf take 100, those around a
part included."""


def from_protos(parts: Iterable[pb.Part]) -> list[Part]:
    """Return the domain's parts; whole numbers of a Struct become integers again."""
    return [Part(_content(part), part.name, part.media_type, part.filename) for part in parts]


def to_protos(value: Any) -> list[pb.Part]:
    """Return a result as parts: a JSON object, a text, raw bytes, or `{"result": v}` for anything else.

    Content with a media type, alone, in a list of such or as a member of an object, is a part of its own.

    Raises:
        InvalidToolOutput: As of `to_struct`.
    """
    if isinstance(value, str):
        return [pb.Part(text=value)]
    if isinstance(value, bytes):
        return [_raw(value)]
    if isinstance(value, list) and value and all(isinstance(item, Content) for item in value):
        return [_raw(item) for item in value]
    if not isinstance(value, Mapping):
        return [pb.Part(json=to_struct({"result": value}))]
    apart = {name: item for name, item in value.items() if isinstance(item, Content)}
    plain = {name: item for name, item in value.items() if name not in apart}
    parts = [pb.Part(json=to_struct(plain))] if plain or not apart else []
    return parts + [_raw(item, name) for name, item in apart.items()]


def to_struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return a JSON object as a Struct; raw bytes inside become base64 text.

    Raises:
        InvalidToolOutput: A Struct cannot hold it: a number is too large, or it is nested too deep.
    """
    struct = struct_pb2.Struct()
    for name, item in value.items():
        _put(struct.fields[name], item, _MAX_DEPTH)
    return struct


def schema_struct(schema: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return a JSON Schema as a Struct; bounds beyond 2^53 are rounded, as every reader of JSON may do.

    Raises:
        InvalidToolOutput: It is nested too deep.
        OverflowError: A number is larger than any that can be held.
    """
    return to_struct(_rounded(schema))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(value) if isinstance(value, int) and abs(value) > _EXACT else value


def plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Return the JSON object that a Struct is; whole numbers become integers again."""
    return {name: _value(item) for name, item in struct.fields.items()}


def _content(part: pb.Part) -> str | bytes | dict[str, Any] | ArtifactRef:
    kind = part.WhichOneof("content")
    if kind == "json":
        return plain(part.json)
    if kind == "artifact":
        return ArtifactRef(part.artifact)
    return part.inline_bytes if kind == "inline_bytes" else part.text


def _raw(data: bytes, name: str = "") -> pb.Part:
    media_type, filename = getattr(data, "media_type", ""), getattr(data, "filename", "")
    return pb.Part(inline_bytes=bytes(data), name=name, media_type=media_type, filename=filename)


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


def _put(target: struct_pb2.Value, value: Any, room: int) -> None:
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = _number(value)
    elif isinstance(value, bytes):
        target.string_value = base64.b64encode(value).decode()
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, Mapping):
        target.struct_value.SetInParent()
        for name, item in value.items():
            _put(target.struct_value.fields[name], item, _less(room, 3))
    else:
        target.list_value.SetInParent()
        for item in value:
            _put(target.list_value.values.add(), item, _less(room, 2))


def _number(value: float) -> float:
    if isinstance(value, int) and abs(value) > _EXACT:
        raise InvalidToolOutput(
            "the result has an integer beyond 2^53, which a JSON number here would round; give it as text",
            rule="maximum",
        )
    return float(value)


def _less(room: int, levels: int) -> int:
    if room < levels:
        raise InvalidToolOutput(
            f"the result is nested too deep to be sent: at most {_MAX_DEPTH // 2} lists or {_MAX_DEPTH // 3} "
            "objects inside each other; give it flat, as text or as raw bytes",
            rule="depth",
        )
    return room - levels
