"""The layers of the chain. Outermost first: telemetry, audit, errors, deadline, identity, authorization."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from grpc_status import rpc_status
from opentelemetry import trace

from aegis_common.audit.log import AuditLog, AuditUnavailable
from aegis_common.audit.record import AuditRecord
from aegis_common.auth.authorize import authorize
from aegis_common.auth.identify import Identifier
from aegis_common.errors import AegisError, DeadlineExceeded
from aegis_common.rpc.call import Call, Transport
from aegis_common.rpc.chain import Inner
from aegis_common.rpc.errors import CODES, GRPC_CODES, InternalError, remote_error, to_status
from aegis_common.rpc.outgoing import TRACEPARENT
from aegis_common.telemetry import Telemetry

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)


class TelemetryLayer:
    """A span and a duration measurement for each call; continues the caller's trace."""

    def __init__(self, telemetry: Telemetry, known: Container[str]) -> None:
        self._telemetry = telemetry
        self._known = known

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        parent = call.values(TRACEPARENT)
        span = self._telemetry.start_server_span(
            call.rule.path, traceparent=parent[0] if parent else None, known=call.rule.path in self._known
        )
        call.traceparent = span.traceparent
        try:
            with span.current():
                return await inner()
        finally:
            span.end(call.code.name)


class AuditLayer:
    """One audit record for each call, refused ones included; health checks that pass are left out.

    While the log takes no more records, calls are refused before they have had any effect.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        if not call.rule.public:
            try:
                self._audit.check()
            except AuditUnavailable as error:
                await _abort(call, context, error)
        try:
            return await inner()
        except asyncio.CancelledError:
            call.code = _cancelled_code(call)
            raise
        finally:
            if not (call.rule.public and call.code is grpc.StatusCode.OK):
                await self._append(call, context)
                _log.info("call", extra=_log_fields(call))

    async def _append(self, call: Call, context: Transport) -> None:
        try:
            record = _record(call)
            if not self._audit.take(record):
                await asyncio.shield(self._audit.append(record))
        except AuditUnavailable as error:
            _log.error("call not audited: %s", error.message, extra=_log_fields(call))
            if call.code is grpc.StatusCode.OK:  # else the caller has its refusal already
                await _abort(call, context, error)


def _cancelled_code(call: Call) -> grpc.StatusCode:
    late = call.time_remaining() <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _record(call: Call) -> AuditRecord:
    peer = call.peer_spiffe_id
    return AuditRecord(
        method=call.rule.path,
        principal=call.principal,
        code=call.code.name,
        reason=call.reason,
        trace_id=call.trace_id,
        peer="" if peer == call.principal.spiffe_id else peer,
        notes=dict(call.notes),
    )


def _log_fields(call: Call) -> dict[str, str]:
    return {
        "rpc": call.rule.path,
        "code": call.code.name,
        "reason": call.reason,
        "subject": call.principal.subject,
        "tenant": call.principal.tenant,
        **call.notes,
    }


class ErrorLayer:
    """Turn an AegisError into its status, and anything unforeseen into an opaque INTERNAL."""

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        try:
            result = await inner()
        except grpc.aio.AbortError:
            call.code = _code_of(context)
            raise
        except AegisError as error:
            await _abort(call, context, error)
        except grpc.aio.AioRpcError as error:
            # A servicer that let another service's failure through: its reason is still the best answer.
            _log.warning("upstream call failed in %s: %s", call.rule.path, error.details())
            await _abort(call, context, remote_error(error))
        except Exception as error:
            trace.get_current_span().record_exception(error)
            _log.exception("unhandled error in %s", call.rule.path)
            await _abort(call, context, InternalError("internal error; the service's log has the details"))
        else:
            call.code = _code_of(context)  # a handler may set it and return
            return result


def _code_of(context: Transport) -> grpc.StatusCode:
    """Return the code that was set on the call; none means OK."""
    value: Any = context.code()
    if value is None:
        return grpc.StatusCode.OK
    return GRPC_CODES.get(value, grpc.StatusCode.UNKNOWN) if isinstance(value, int) else value


async def _abort(call: Call, context: Transport, error: AegisError) -> NoReturn:
    call.code = GRPC_CODES[CODES[error.kind]]
    call.reason = error.reason
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort returned")


class DeadlineLayer:
    """Stop the work when its time is over, whether the caller or the method's cap set it."""

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        scope = asyncio.timeout(call.time_remaining())
        try:
            async with scope:
                return await inner()
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise DeadlineExceeded("the call ran out of time; its work was stopped") from error


class IdentityLayer:
    """Find out who calls."""

    def __init__(self, identifier: Identifier) -> None:
        self._identifier = identifier

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        call.principal = await self._identifier.identify(
            call.peer_spiffe_id, call.metadata, on_behalf_of=call.rule.on_behalf_of
        )
        return await inner()


class AuthorizationLayer:
    """Let in whom the method's rule admits; nobody else."""

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        authorize(call.rule, call.principal, peer_spiffe_id=call.peer_spiffe_id)
        return await inner()
