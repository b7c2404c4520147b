"""The ASGI application of the HTTP listener: each request goes through the chain to its route's handler."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Never

import grpc
from google.rpc import code_pb2, status_pb2
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aegis_agent.adapters.http.bodies import Bodies
from aegis_agent.adapters.http.errors import error_headers, error_response, status_of
from aegis_agent.adapters.http.routes import BodyTooLarge, Match, Operation, Request, Route, Router
from aegis_common.errors import AegisError, DeadlineExceeded, InvalidArgument
from aegis_common.rpc.call import Call
from aegis_common.rpc.chain import Chain
from aegis_common.rpc.outgoing import TRACEPARENT

PEER: Final = "aegis.peer_spiffe_id"
"""Key of the ASGI scope under which the listener puts the SPIFFE id of the client certificate."""
HEALTH_PATH: Final = "/healthz"
_GRPC_TIMEOUT: Final = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_SELECT_S: Final = 30.0
_PIECE_BYTES: Final = 256 << 10
_log: Final = logging.getLogger(__name__)


class Ended(Exception):
    """A layer of the chain has ended the call with a status."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class HttpTransport:
    """The chain's view of an HTTP exchange."""

    def __init__(self) -> None:
        self._code: grpc.StatusCode | None = None

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        """Say what became of a call whose handler answers errors itself: for the audit log and the span."""
        self._code = code

    async def abort_with_status(self, status: grpc.Status) -> Never:
        raise Ended(status_of(status))


TRANSPORT: Final = "aegis.transport"
CALL: Final = "aegis.call"
"""Keys of the ASGI scope for handlers that outlive the task of their request: its transport and its call."""


class HttpApp:
    """The application of one listener.

    Args:
        routes: What it serves, besides `/healthz`.
        chain: What every request goes through.
        ready: Whether `/healthz` answers 200, else 503, to whoever asks from an address.
        challenge: Parameters of `www-authenticate` on 401, after `Bearer`.
        bodies: What bodies are counted in.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        chain: Chain,
        *,
        ready: Callable[[str], bool],
        challenge: str = "",
        bodies: Bodies,
    ) -> None:
        self._router = Router(list(routes))
        self._chain = chain
        self._ready = ready
        self._challenge = challenge
        self._bodies = bodies

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
        exchange = _Exchange(match.route, match.parameters, scope, receive, send, bodies=self._bodies)
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

    async def _exchange(self, route: Route, exchange: _Exchange) -> None:
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

    async def _refuse_early(self, error: AegisError, exchange: _Exchange) -> None:
        call, transport = self._unknown(exchange.scope)

        async def inner() -> None:
            raise error

        await self._chain.serve(call, transport, inner)

    def _unknown(self, scope: Scope) -> tuple[Call, HttpTransport]:
        rule = self._chain.unknown(f"{scope['method']} {scope['path']}")
        peer = scope.get(PEER, "")
        call = Call.begin(rule, metadata=tuple(_headers(scope)), peer_spiffe_id=peer, timeout_s=None)
        return call, HttpTransport()

    async def _through_chain(
        self, operation: Operation, route: Route, exchange: _Exchange, *, timeout_s: float | None
    ) -> None:
        scope, headers = exchange.scope, _headers(exchange.scope)
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

    async def _refuse(self, status: status_pb2.Status, route: Route, exchange: _Exchange) -> None:
        if exchange.gone:
            return
        if exchange.started:
            # What was sent cannot be taken back: only a broken connection says that it is not all there is.
            _log.info("response cut short", extra={"reason": status.message})
            await exchange.cut()
            return
        response = self._error(status, route.on_error and route.on_error(status, exchange.request))
        await response(exchange.scope, exchange.receive, exchange.send)

    def _error(self, status: status_pb2.Status, response: Response | None = None) -> Response:
        response = response or error_response(status)
        for name, value in error_headers(status, self._challenge).items():
            response.headers.setdefault(name, value)
        return response


class _Exchange:
    """One request and its response, and whether the client is still there."""

    def __init__(
        self,
        route: Route,
        parameters: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        bodies: Bodies,
    ) -> None:
        self._route: Final = route
        self._receive, self._send = receive, send
        self._disconnected = asyncio.Event()
        self._replayed = self._complete = False
        self._bodies, self._held = bodies, 0
        self.scope = scope
        self.started = False
        self.gone = False
        self.request: Final = Request(scope, self._read, parameters=parameters)

    async def operation(self) -> Operation:
        """Return what the request asks for.

        Raises:
            AegisError: The request does not say.
        """
        method = self._route.grpc_method
        if isinstance(method, str):
            return Operation(method)
        try:
            async with asyncio.timeout(_SELECT_S):
                return await method(self.request)
        except TimeoutError as error:
            raise DeadlineExceeded("the body did not arrive in time") from error

    async def serve(self) -> None:
        """Read the body, run the handler and send what it returns; cancelled when the client goes away."""
        await self.request.body()
        watch = asyncio.get_running_loop().create_task(self._watch(asyncio.current_task()))
        try:
            answer: ASGIApp = await self._route.handler(self.request)
            await answer(self.scope, self.receive, self.send)
        finally:
            watch.cancel()

    async def receive(self) -> Message:
        """Give the body, as one message, and then wait for the end of the connection."""
        if not self._replayed:
            self._replayed = True
            return {"type": "http.request", "body": await self.request.body(), "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.started = True
        for piece in _pieces(message):
            if piece["type"] == "http.response.body" and not piece.get("more_body", False):
                self._complete = True  # from here on the server calls the exchange disconnected
            await self._send(piece)
        drain: Callable[[], Awaitable[None]] | None = self.scope.get(DRAIN)
        if drain is not None:  # who does not read has the time of the call for it, and no more
            await drain()

    async def cut(self) -> None:
        """End the connection in the middle of the response."""
        close: Callable[[], None] | None = self.scope.get(ABORT)
        if close is not None:
            close()

    def close(self) -> None:
        """Give back the room that the body took."""
        self._bodies.free(self._held)
        self._held = 0

    async def _read(self) -> bytes:
        limit = self._route.max_body_bytes
        chunks = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            chunk: bytes = message.get("body", b"")
            self._bodies.take(len(chunk))
            self._held += len(chunk)
            if self._held > limit:
                raise BodyTooLarge(
                    f"the body is larger than {limit} bytes; send large content as an artifact",
                    max_bytes=str(limit),
                )
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _watch(self, task: asyncio.Task[Any] | None) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._complete:
            return
        self.gone = True
        self._disconnected.set()
        if task is not None:
            task.cancel()


ABORT: Final = "aegis.abort"
"""Key of the ASGI scope for a function that drops the connection."""
DRAIN: Final = "aegis.drain"
"""Key of the ASGI scope for a function that returns when the client has read almost all that was sent."""


def _pieces(message: Message) -> Iterator[Message]:
    """Cut a large body: TLS takes what is written at once into its buffers, whether anybody reads or not."""
    body = message.get("body", b"")
    if len(body) <= _PIECE_BYTES:
        yield message
        return
    for start in range(0, len(body), _PIECE_BYTES):
        more = message.get("more_body", False) or start + _PIECE_BYTES < len(body)
        yield {**message, "body": body[start : start + _PIECE_BYTES], "more_body": more}


def _headers(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


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
