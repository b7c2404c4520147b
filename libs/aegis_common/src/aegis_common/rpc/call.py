"""What a handler may know of the call that it serves."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Never, Protocol, Self

import grpc
import grpc.aio

from aegis_common.auth.principal import ANONYMOUS, Principal
from aegis_common.rpc.access import MethodRule

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str | bytes], ...]


class Transport(Protocol):
    """What the chain needs of whatever carries a call; gRPC's `Context` is one, HTTP has another."""

    def code(self) -> Any:
        """Return the status code that the handler has set, or None."""
        ...

    async def abort_with_status(self, status: grpc.Status) -> Never:
        """End the call with *status*, by raising."""
        ...


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
        notes: What the audit log should know beyond the method, for example `tool`; short, no user content.
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

    @classmethod
    def begin(
        cls, rule: MethodRule, *, metadata: Metadata, peer_spiffe_id: str, timeout_s: float | None
    ) -> Self:
        """Return a call that has just come in.

        Args:
            rule: The method's entry in the method table.
            metadata: What the caller sent, lower-case keys.
            peer_spiffe_id: SPIFFE id of the client certificate at this hop, or empty.
            timeout_s: Seconds that the caller gives it, or None for the method's default; the method's cap
                holds anyway.
        """
        wanted = rule.default_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + min(wanted, rule.max_timeout_s)
        return cls(rule=rule, metadata=metadata, peer_spiffe_id=peer_spiffe_id, deadline=deadline)

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
