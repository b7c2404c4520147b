"""The form that a request must have, as the descriptor tells it."""

from __future__ import annotations

import re
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.message import Message

from aegis_client.errors import UsageError
from aegis_common.patterns import fault


def check_form(request: Message) -> None:
    """Refuse what the service would refuse for its form: before large content is sent, not after it.

    Raises:
        UsageError: A text does not match the pattern of its field, or bytes are more than it takes.
    """
    for field in request.DESCRIPTOR.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        value: Any = getattr(request, field.name)
        most = rules.bytes.max_len
        if most and len(value) > most:
            raise UsageError(f"{field.name} has {len(value)} bytes; at most {most} are allowed")
        pattern = rules.string.pattern or rules.repeated.items.string.pattern
        for text in ([value] if isinstance(value, str) else value) if pattern else ():
            if not re.search(pattern, text):
                raise UsageError(f"{field.name}: {fault(text, pattern)}")
