"""Request validation by the `buf.validate` rules that stand in the protos."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from aegis_common.errors import InvalidArgument
from aegis_common.patterns import fault

_JSON: Final = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue"))
_LARGE_BYTES: Final = 4096
_PATTERN: Final = "string.pattern"
_SECONDS: Final = re.compile(r"\b(\d+)s\b")
_UNITS: Final = {86400: "day", 3600: "hour", 60: "minute"}


class InvalidRequest(InvalidArgument):
    reason = "INVALID_REQUEST"


def request_validator() -> Callable[[Message], None]:
    """Return a check that raises InvalidRequest, which names each field and what is wrong with it."""
    validator = protovalidate.Validator()
    ruled: dict[Any, bool] = {}

    def check(request: Message) -> None:
        kind: Any = request.DESCRIPTOR
        if kind not in ruled:
            ruled[kind] = _has_rules(kind, set())
        if not ruled[kind]:
            return  # the validator would copy all of it, tensors included, to find that
        if _holds_json(kind) and request.ByteSize() > _LARGE_BYTES:
            request = _without_json(request)
        violations = validator.collect_violations(request)
        if not violations:
            return
        found = {_path(violation.proto): _what(violation) for violation in violations}
        text = "; ".join(f"{path or 'request'}: {what}" for path, what in found.items())
        raise InvalidRequest(f"the request is not valid: {text}", violations=found)

    return check


def _has_rules(kind: Descriptor, seen: set[str]) -> bool:
    """Return whether a rule stands in a message, or in one that it can hold."""
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    return (
        kind.GetOptions().HasExtension(validate_pb2.message)
        or any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in kind.oneofs)
        or any(field.GetOptions().HasExtension(validate_pb2.field) for field in kind.fields)
        or any(_has_rules(field.message_type, seen) for field in kind.fields if field.message_type)
    )


@functools.cache
def _holds_json(kind: Any) -> bool:
    """Return whether free JSON can stand in a message."""
    pending, seen = [kind], set()
    while pending:
        found = pending.pop()
        if found.full_name in _JSON:
            return True
        if found.full_name not in seen:
            seen.add(found.full_name)
            pending += [field.message_type for field in found.fields if field.message_type]
    return False


def _without_json(message: Message) -> Message:
    """Return a copy in which free JSON is empty: no rule looks into it, and the validator takes long to."""
    slim = type(message)()
    for field, value in message.ListFields():
        kind: Any = field.message_type
        target: Any = getattr(slim, field.name)
        if kind is None and not field.is_repeated:
            setattr(slim, field.name, value)
        elif kind is None or not _holds_json(kind) or kind.GetOptions().map_entry:
            (target.MergeFrom if field.is_repeated else target.CopyFrom)(value)
        elif field.is_repeated:
            target.extend(_bare(item) for item in value)
        else:
            target.CopyFrom(_bare(value))
            target.SetInParent()
    return slim


def _bare(message: Message) -> Message:
    return type(message)() if message.DESCRIPTOR.full_name in _JSON else _without_json(message)


def _path(violation: Any) -> str:
    """Return `payload[0].media_type` for a violation's field path."""
    steps = []
    for element in violation.field.elements if violation.field else ():
        subscript = element.subscript
        steps.append(element.field_name + (f"[{subscript.value}]" if subscript else ""))
    return ".".join(steps)


def _what(violation: protovalidate.Violation) -> str:
    """Return what is wrong with a field, without the expression that its text should match."""
    broken = violation.proto
    if broken.rule_id == _PATTERN:
        return fault(str(violation.field_value), str(violation.rule_value))
    text = broken.message or broken.rule_id
    if broken.rule_id.startswith("duration."):
        text = _SECONDS.sub(lambda found: _in_units(found[0], int(found[1])), text)
    given = _given(violation.field_value) if text.startswith("must be ") else ""
    return f"{text}, not {given}" if given else text


def _given(value: object) -> str:
    """Return a number, a duration, or how long a text is; nothing for a value of another kind."""
    match value:
        case bool():
            return ""
        case int() | float():
            return f"{value:g}"
        case str():
            return str(len(value))
        case Duration():
            seconds = value.seconds + value.nanos / 1e9
            return _in_units(f"{seconds:.10g}s", seconds)
    return ""


def _in_units(text: str, seconds: float) -> str:
    """Return `7 days (604800s)` for *text* `604800s`: in words, and as JSON has it."""
    for unit, name in _UNITS.items():
        count, rest = divmod(seconds, unit)
        if count > 0 and not rest:
            return f"{count:g} {name}{'' if count == 1 else 's'} ({text})"
    return text
