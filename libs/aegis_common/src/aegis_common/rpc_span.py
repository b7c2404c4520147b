"""The span of one call: one status, at most one exception event, one entry in the duration histogram."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, Status, StatusCode

from aegis_common.tracecontext import format_traceparent

SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "DATA_LOSS"}
)
"""Codes that mark a server's span as failed; the others are the caller's fault."""


class RpcSpan:
    """Span of an incoming or outgoing call.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        traceparent: Header that makes the next call a child of this span.
    """

    def __init__(
        self, span: Span, *, parent: Context, duration: Histogram, labels: Mapping[str, str], server: bool
    ) -> None:
        self._span = span
        self._context = trace.set_span_in_context(span, parent)
        self._duration = duration
        self._labels = labels
        self._server = server
        self._code = ""
        self._excepted = False
        self._ended = False
        self._start = time.perf_counter()
        identity = span.get_span_context()
        self.trace_id: Final = f"{identity.trace_id:032x}"
        self.span_id: Final = f"{identity.span_id:016x}"
        self.traceparent: Final = format_traceparent(identity)

    @property
    def code(self) -> str:
        """The status that was set, or an empty string."""
        return self._code

    def set_status(self, code: str) -> None:
        """Set the call's gRPC status code by name, for example `NOT_FOUND`; the last one set counts."""
        self._code = code

    def set_attribute(self, name: str, value: str | bool | int | float) -> None:
        self._span.set_attribute(name, value)

    def record_exception(self, error: BaseException) -> None:
        """Attach *error* as an event; only the first one is kept."""
        if not self._excepted:
            self._excepted = True
            self._span.record_exception(error)

    def current(self) -> AbstractContextManager[None]:
        """Make this the current span within the block."""
        return _Current(self._context)

    def end(self, code: str = "") -> None:
        """End the span and record the duration, once; further calls do nothing.

        Args:
            code: Status when none was set before; `OK` if omitted.
        """
        if self._ended:
            return
        self._ended = True
        self._code = self._code or code or "OK"
        failed = self._code in SERVER_FAULTS if self._server else self._code != "OK"
        labels = {**self._labels, "rpc.response.status_code": self._code}
        self._span.set_attribute("rpc.response.status_code", self._code)
        if failed:
            labels["error.type"] = self._code
            self._span.set_attribute("error.type", self._code)
            self._span.set_status(Status(StatusCode.ERROR))
        self._duration.record(time.perf_counter() - self._start, labels, self._context)
        self._span.end()


class _Current:
    """Makes a context the current one; a class, for a generator would cost each call more."""

    __slots__ = ("_before", "_context")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._before = otel_context.get_current()
        otel_context.attach(self._context)

    def __exit__(self, *exception: object) -> None:
        # Not detach(token): an async generator may be closed from another context, where the token is
        # refused. There the current context is not ours, and is left alone.
        if otel_context.get_current() is self._context:
            otel_context.attach(self._before)
