"""Request validation by the `buf.validate` rules that stand in the protos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import protovalidate
from google.protobuf.message import Message

from aegis_common.errors import InvalidArgument


class InvalidRequest(InvalidArgument):
    reason = "INVALID_REQUEST"


def request_validator() -> Callable[[Message], None]:
    """Return a check that raises InvalidRequest, which names each field and what is wrong with it."""
    validator = protovalidate.Validator()

    def check(request: Message) -> None:
        violations = validator.collect_violations(request)
        if not violations:
            return
        found = {_path(v.proto): v.proto.message or v.proto.rule_id for v in violations}
        text = "; ".join(f"{path or 'request'}: {what}" for path, what in found.items())
        raise InvalidRequest(f"the request is not valid: {text}", violations=found)

    return check


def _path(violation: Any) -> str:
    """Return `payload[0].media_type` for a violation's field path."""
    steps = []
    for element in violation.field.elements if violation.field else ():
        subscript = element.subscript
        steps.append(element.field_name + (f"[{subscript.value}]" if subscript else ""))
    return ".".join(steps)
