"""What a service sends along when it calls another: trace, deadline, and for whom it calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan

from aegis_common.auth.identify import AUTHORIZATION, ON_BEHALF_OF
from aegis_common.auth.principal import Principal
from aegis_common.rpc.access import MethodRule
from aegis_common.rpc.call import maybe_current_call
from aegis_common.tracecontext import format_traceparent, parse_traceparent

TRACEPARENT: Final = "traceparent"


_acting: Final[ContextVar[Principal | None]] = ContextVar("aegis_acting", default=None)


@contextmanager
def acting_for(principal: Principal, *, traceparent: str = "") -> Iterator[None]:
    """Make the calls of this task for a stored principal, in a stored trace: for deferred work.

    Args:
        principal: The caller as stored and authorised when the work was created.
        traceparent: W3C trace context stored with the work; empty starts a new trace.
    """
    remote = parse_traceparent(traceparent)
    parent = trace.set_span_in_context(NonRecordingSpan(remote), Context()) if remote else Context()
    trace_token, token = otel_context.attach(parent), _acting.set(principal)
    try:
        yield
    finally:
        _acting.reset(token)
        otel_context.detach(trace_token)


def parent_trace() -> str:
    """Return the trace context that an outgoing call continues, or an empty string."""
    span = trace.get_current_span().get_span_context()
    return format_traceparent(span) if span.is_valid else ""


def identity_metadata(rule: MethodRule) -> list[tuple[str, str]]:
    """Return the metadata that says for whom a call of *rule* is made; empty when for the service itself.

    A user's own token is forwarded as it came. Without one, the principal goes as `aegis-on-behalf-of`, and
    only to methods whose access option takes it.
    """
    principal = _acting.get()
    call = maybe_current_call()
    if principal is None and call is not None:
        principal = call.principal
    if principal is None or not principal.subject:
        return []
    if principal.token:
        return [(AUTHORIZATION, f"Bearer {principal.token}")]
    return [(ON_BEHALF_OF, principal.to_record())] if rule.on_behalf_of else []


def timeout_for(rule: MethodRule, wanted: float | None) -> float:
    """Return the timeout of an outgoing call, in seconds.

    It is the least of what is wanted, what the method allows, and what the call being served has left.
    """
    timeout = min(rule.default_timeout_s if wanted is None else wanted, rule.max_timeout_s)
    call = maybe_current_call()
    if call is not None and _acting.get() is None:
        timeout = min(timeout, call.deadline - time.monotonic())
    return max(0.001, timeout)
