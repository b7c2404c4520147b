"""W3C trace context: each call has a trace id, and several calls can share one."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from aegis_client.errors import UsageError

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_current: Final[ContextVar[str]] = ContextVar("aegis_client_trace", default="")
_last: Final[ContextVar[str]] = ContextVar("aegis_client_last_trace", default="")


@contextmanager
def tracing(trace_id: str = "") -> Iterator[str]:
    """Give all calls inside the block one trace id, and return it.

    Args:
        trace_id: 32 lower-case hex digits, for example of a trace under way; if empty, a new one.

    Raises:
        UsageError: The id is not a W3C trace id.
    """
    if trace_id and not _TRACE_ID.fullmatch(trace_id):
        raise UsageError(f"trace id {trace_id!r} is not 32 lower-case hex digits")
    chosen = trace_id or new_trace_id()
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)


def last_trace_id() -> str:
    """Return the trace id of the last call of this thread or task, or an empty string."""
    return _last.get()


def begin_call() -> str:
    """Return the trace id for a call that starts now, and remember it."""
    trace_id = _current.get() or new_trace_id()
    _last.set(trace_id)
    return trace_id


def new_trace_id() -> str:
    return secrets.token_hex(16)


def traceparent(trace_id: str) -> str:
    """Return a `traceparent` header for a new span of the trace."""
    return f"00-{trace_id}-{secrets.token_hex(8)}-01"
