"""What a handler may know of the call that it serves."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from aegis_common.auth.principal import ANONYMOUS, Principal
from aegis_common.rpc.access import MethodRule

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(slots=True)
class Call:
    """One call, from its first byte to its outcome; the interceptors fill it in, outermost first.

    Attributes:
        rule: The method's entry in the method table.
        metadata: What the caller sent, lower-case keys.
        peer_spiffe_id: SPIFFE id of the client certificate at this hop.
        principal: Who calls; anonymous until the identity layer has run.
        deadline: Moment on the monotonic clock at which the work has to have stopped, in seconds.
        traceparent: W3C trace context of this server's span.
        code: Status code of the outcome; OK until something fails.
        reason: Reason of the outcome, for the audit log; empty when all is well.
    """

    rule: MethodRule
    metadata: Metadata
    peer_spiffe_id: str
    deadline: float
    principal: Principal = ANONYMOUS
    traceparent: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def trace_id(self) -> str:
        """W3C trace id, 32 hex digits, or an empty string."""
        parts = self.traceparent.split("-")
        return parts[1] if len(parts) == 4 else ""

    def time_remaining(self) -> float:
        """Return the seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def values(self, key: str) -> list[str]:
        """Return every value of a metadata key, text only."""
        return [value for name, value in self.metadata if name == key and isinstance(value, str)]


_current: Final[ContextVar[Call | None]] = ContextVar("aegis_call", default=None)


def current_call() -> Call:
    """Return the call that this task serves.

    Raises:
        LookupError: This task serves none.
    """
    call = _current.get()
    if call is None:
        raise LookupError("no call is being served here")
    return call


def maybe_current_call() -> Call | None:
    """Return the call that this task serves, or None."""
    return _current.get()


def enter_call(call: Call) -> None:
    """Make *call* the current one for this task and the tasks that it starts."""
    _current.set(call)
