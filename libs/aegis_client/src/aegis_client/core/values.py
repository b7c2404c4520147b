"""From Python values to protobuf and back; nothing is rounded or dropped unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from aegis_client.errors import UsageError
from aegis_common.patterns import name_fault

_EXACT: Final = 2**53
"""Integers beyond this lose digits in a double."""


def resource(collection: str, name: str) -> str:
    """Return the resource name; `image_ocr` and `tools/image_ocr` mean the same.

    Raises:
        UsageError: The name is empty or of another collection.
    """
    bare = name.removeprefix(f"{collection}/")
    if not bare or "/" in bare:
        raise UsageError(name_fault(name, collection))
    return f"{collection}/{bare}"


def optional_resource(collection: str, name: str) -> str:
    return resource(collection, name) if name else ""


def enum_name(enum: Any, value: int) -> str:
    """Return an enum value without the prefix that its type's values share, for example `RUN_NOW`."""
    names: Mapping[int, Any] = enum.DESCRIPTOR.values_by_number
    if value not in names:
        return f"UNRECOGNIZED_{value}"
    return str(names[value].name).removeprefix(_prefix(enum))


def enum_value(enum: Any, name: str, parameter: str) -> int:
    """Return the number of `run_now` or `RUN_NOW`.

    Raises:
        UsageError: The enum has no such value.
    """
    prefix = _prefix(enum)
    known: dict[str, int] = {item.name: item.number for item in enum.DESCRIPTOR.values if item.number}
    full = prefix + name.upper().replace("-", "_")
    if full not in known:
        choices = ", ".join(item.removeprefix(prefix).lower() for item in known)
        raise UsageError(f"{parameter} {name!r} is not one of {choices}")
    return known[full]


def _prefix(enum: Any) -> str:
    return str(enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED"))


def moment(message: Any, field: str) -> datetime | None:
    """Return a timestamp field in UTC, or None when it is unset."""
    if not message.HasField(field):
        return None
    stamp: timestamp_pb2.Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


def span(message: Any, field: str) -> timedelta | None:
    """Return a duration field, or None when it is unset."""
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None


def known(message: Any, field: str) -> Any:
    """Return a field that has presence, or None when it is unset."""
    return getattr(message, field) if message.HasField(field) else None


def duration(seconds: float | timedelta | None) -> duration_pb2.Duration | None:
    """Return a duration for a field that may be left out."""
    if seconds is None:
        return None
    made = duration_pb2.Duration()
    try:
        made.FromTimedelta(seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{seconds!r} is not a duration in seconds") from error
    return made


def stamp(value: datetime | float | None, parameter: str) -> timestamp_pb2.Timestamp | None:
    """Return a time for a field that may be left out; a number is seconds from now.

    Raises:
        UsageError: It has no time zone; *parameter* is named.
    """
    if value is None:
        return None
    if not isinstance(value, datetime):
        value = datetime.now(UTC) + timedelta(seconds=value)
    if value.tzinfo is None:
        raise UsageError(
            f"{parameter} {value.isoformat()} has no time zone; for example {value.isoformat()}Z"
        )
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(value)
    return made


def time_limit(seconds: float | None) -> float | None:
    """Return the time that a call may take, in seconds.

    Raises:
        UsageError: It is not above 0, or not finite.
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"timeout {seconds!r} is not a number of seconds above 0")
    return seconds


def struct(values: Mapping[str, Any], where: str = "arguments") -> struct_pb2.Struct:
    """Return a JSON object as a Struct.

    Raises:
        UsageError: A value is no JSON value, or an integer that a double cannot hold.
    """
    return struct_pb2.Struct(fields={key: _value(item, f"{where}.{key}") for key, item in values.items()})


def _value(item: Any, where: str) -> struct_pb2.Value:
    match item:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=item)
        case int() | float():
            if isinstance(item, int) and abs(item) > _EXACT:
                raise UsageError(f"{where}: {item} has more digits than JSON numbers keep; send it as text")
            return struct_pb2.Value(number_value=item)
        case str():
            return struct_pb2.Value(string_value=item)
        case Mapping():
            return struct_pb2.Value(struct_value=struct(item, where))
        case Sequence() if not isinstance(item, bytes | bytearray | memoryview):
            values = [_value(entry, f"{where}[{index}]") for index, entry in enumerate(item)]
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=values))
    raise UsageError(f"{where}: {type(item).__name__} is no JSON value")


def unstruct(message: struct_pb2.Struct) -> dict[str, Any]:
    """Return a Struct as a dict; numbers without a fraction come back as int."""
    return {key: _unvalue(item) for key, item in message.fields.items()}


def _unvalue(item: struct_pb2.Value) -> Any:
    match item.WhichOneof("kind"):
        case "bool_value":
            return item.bool_value
        case "number_value":
            number = item.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "string_value":
            return item.string_value
        case "struct_value":
            return unstruct(item.struct_value)
        case "list_value":
            return [_unvalue(entry) for entry in item.list_value.values]
    return None
