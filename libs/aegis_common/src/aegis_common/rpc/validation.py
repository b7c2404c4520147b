"""Request validation by the `buf.validate` rules that stand in the protos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from aegis_common.errors import InvalidArgument


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
        violations = validator.collect_violations(request)
        if not violations:
            return
        found = {_path(v.proto): v.proto.message or v.proto.rule_id for v in violations}
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


def _path(violation: Any) -> str:
    """Return `payload[0].media_type` for a violation's field path."""
    steps = []
    for element in violation.field.elements if violation.field else ():
        subscript = element.subscript
        steps.append(element.field_name + (f"[{subscript.value}]" if subscript else ""))
    return ".".join(steps)
