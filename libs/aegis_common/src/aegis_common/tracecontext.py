"""The W3C `traceparent` header, read and written strictly."""

from __future__ import annotations

import re
from typing import Final

from opentelemetry.trace import SpanContext, TraceFlags

_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)

_FLAGS: Final = 0x03
"""The bits that are defined: sampled, and (level 2) random trace id."""


def parse_traceparent(text: str | None) -> SpanContext | None:
    """Return the remote span that *text* names, or None when it is not a valid `traceparent`."""
    match = _TRACEPARENT.fullmatch(text or "")
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["rest"]):
        return None
    context = SpanContext(
        int(match["trace"], 16),
        int(match["span"], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match["flags"], 16) & _FLAGS),
    )
    return context if context.is_valid else None


def format_traceparent(context: SpanContext) -> str:
    """Return the `traceparent` of *context*, or an empty string when it is no valid one."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
