"""The ASGI application of the HTTP listener: each request goes through the chain to its route's handler."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import Final

import grpc
from google.rpc import code_pb2, status_pb2
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aegis_agent.adapters.http.errors import error_headers, error_response
from aegis_agent.adapters.http.exchange import (
    CALL,
    PEER,
    TRANSPORT,
    Ended,
    Exchange,
    HttpTransport,
    headers_of,
)
from aegis_agent.adapters.http.room import Room
from aegis_agent.adapters.http.routes import Match, Operation, Request, Route, Router
from aegis_common.errors import AegisError, InvalidArgument
from aegis_common.rpc.call import Call
from aegis_common.rpc.chain import Chain
from aegis_common.rpc.outgoing import TRACEPARENT

HEALTH_PATH: Final = "/healthz"
_GRPC_TIMEOUT: Final = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_log: Final = logging.getLogger(__name__)


class HttpApp:
    """The application of one listener.

    Args:
        routes: What it serves, besides `/healthz`.
        chain: What every request goes through.
        ready: Whether `/healthz` answers 200, else 503, to whoever asks from an address.
        challenge: Parameters of `www-authenticate` on 401, after `Bearer`.
        bodies: What bodies are counted in.
        responses: What responses are counted in until they have been read.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        chain: Chain,
        *,
        ready: Callable[[str], bool],
        challenge: str = "",
        bodies: Room,
        responses: Room,
    ) -> None:
        self._router = Router(list(routes))
        self._chain = chain
        self._ready = ready
        self._challenge = challenge
        self._bodies, self._responses = bodies, responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")
        if scope["path"] == HEALTH_PATH:
            await self._health(scope, receive, send)
            return
        match = self._router.match(scope["method"], scope["path"])
        if match.route is None:
            await (await self._nothing(match, scope))(scope, receive, send)
            return
        exchange = Exchange(
            match.route,
            match.parameters,
            scope,
            receive,
            send,
            tenant=self._chain.tenant,
            bodies=self._bodies,
            responses=self._responses,
        )
        try:
            await self._exchange(match.route, exchange)
        finally:
            exchange.close()

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        ready = self._ready(":".join(map(str, scope.get("client") or ())))
        text = "ready\n" if ready else "not ready\n"
        await Response(text, 200 if ready else 503, media_type="text/plain")(scope, receive, send)

    async def _nothing(self, match: Match, scope: Scope) -> Response:
        """Return the answer to a request for what there is not; it is audited as any other."""
        call, transport = self._unknown(scope)

        async def inner() -> None:
            transport.set_code(grpc.StatusCode.UNIMPLEMENTED if match.allowed else grpc.StatusCode.NOT_FOUND)
            call.reason = "UNKNOWN_VERB" if match.allowed else "UNKNOWN_PATH"

        try:
            await self._chain.serve(call, transport, inner)
        except Ended as ended:
            return self._error(ended.status)
        return _no_route(match)

    async def _exchange(self, route: Route, exchange: Exchange) -> None:
        try:
            try:
                operation, timeout_s = await exchange.operation(), _timeout(exchange.request)
            except AegisError as error:  # nobody can tell which method it is
                await self._refuse_early(error, exchange)
            else:
                await self._through_chain(operation, route, exchange, timeout_s=timeout_s)
        except Ended as ended:
            await self._refuse(ended.status, route, exchange)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            _uncancel()

    async def _refuse_early(self, error: AegisError, exchange: Exchange) -> None:
        call, transport = self._unknown(exchange.scope)

        async def inner() -> None:
            raise error

        await self._chain.serve(call, transport, inner)

    def _unknown(self, scope: Scope) -> tuple[Call, HttpTransport]:
        rule = self._chain.unknown(f"{scope['method']} {scope['path']}")
        peer = scope.get(PEER, "")
        call = Call.begin(rule, metadata=tuple(headers_of(scope)), peer_spiffe_id=peer, timeout_s=None)
        return call, HttpTransport()

    async def _through_chain(
        self, operation: Operation, route: Route, exchange: Exchange, *, timeout_s: float | None
    ) -> None:
        scope, headers = exchange.scope, headers_of(exchange.scope)
        if operation.traceparent and TRACEPARENT not in dict(headers):
            headers.append((TRACEPARENT, operation.traceparent))
        call = Call.begin(
            self._chain.rule(operation.grpc_method),
            metadata=tuple(headers),
            peer_spiffe_id=scope.get(PEER, ""),
            timeout_s=route.default_timeout_s if timeout_s is None else timeout_s,
        )
        call.notes.update(operation.notes)
        transport = HttpTransport()
        scope[CALL], scope[TRANSPORT] = call, transport
        await self._chain.serve(call, transport, exchange.serve)

    async def _refuse(self, status: status_pb2.Status, route: Route, exchange: Exchange) -> None:
        if exchange.gone:
            return
        if exchange.started:
            # What was sent cannot be taken back: only a broken connection says that it is not all there is.
            _log.info("response cut short", extra={"reason": status.message})
            await exchange.cut()
            return
        response = self._error(status, route.on_error and route.on_error(status, exchange.request))
        await exchange.refuse(response)

    def _error(self, status: status_pb2.Status, response: Response | None = None) -> Response:
        response = response or error_response(status)
        for name, value in error_headers(status, self._challenge).items():
            response.headers.setdefault(name, value)
        return response


def _uncancel() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _timeout(request: Request) -> float | None:
    text = request.headers.get("grpc-timeout")
    if text is None:
        return None
    match = _GRPC_TIMEOUT.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"grpc-timeout {text!r} is not up to 8 digits and one of H, M, S, m, u, n")
    return int(match[1]) * _UNITS[match[2]]


def _no_route(match: Match) -> Response:
    if match.allowed:
        status = status_pb2.Status(code=code_pb2.UNIMPLEMENTED, message="the path does not have this verb")
        response = error_response(status)
        response.status_code = 405
        response.headers["allow"] = ", ".join(sorted(match.allowed))
        return response
    return error_response(status_pb2.Status(code=code_pb2.NOT_FOUND, message="no such path"))
