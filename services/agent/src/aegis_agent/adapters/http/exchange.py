"""One HTTP request and its response: read, served, counted, and stopped when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Never

import grpc
from google.rpc import status_pb2
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aegis_agent.adapters.http.errors import status_of
from aegis_agent.adapters.http.room import ResponseLost, Room, RoomTaken, Share
from aegis_agent.adapters.http.routes import BodyTooLarge, Operation, Request, Route
from aegis_common.errors import DeadlineExceeded
from aegis_common.rpc.call import Call, Metadata

PEER: Final = "aegis.peer_spiffe_id"
"""Key of the ASGI scope under which the listener puts the SPIFFE id of the client certificate."""
_SELECT_S: Final = 30.0
_PIECE_BYTES: Final = 256 << 10


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


class Exchange:
    """One request and its response, and whether the client is still there."""

    def __init__(
        self,
        route: Route,
        parameters: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        tenant: Callable[[str, Metadata], Awaitable[str]],
        bodies: Room,
        responses: Room,
    ) -> None:
        self._route: Final = route
        self._receive, self._send = receive, send
        self._disconnected = asyncio.Event()
        self._replayed = self._complete = False
        self._tenant_of = tenant
        self._body, self._response = Share(bodies), Share(responses)
        self._counted = True
        self._lost: ResponseLost | None = None
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
        """Read the body, run the handler and send what it returns; cancelled when the client goes away.

        Raises:
            ResponsesFull: The tenant's responses have all the room that it may have: nothing has been done.
            ResponseLost: They do now that it is done.
        """
        await self.request.body()
        self._response.take(await self._tenant(), 0)
        watch = asyncio.get_running_loop().create_task(self._watch(asyncio.current_task()))
        try:
            answer: ASGIApp = await self._route.handler(self.request)
            await answer(self.scope, self.receive, self.send)
        except Exception:
            if self._lost is None:
                raise
        finally:
            watch.cancel()
        if self._lost is not None:  # what the handler made of it says less
            raise self._lost

    async def receive(self) -> Message:
        """Give the body, as one message, and then wait for the end of the connection."""
        if not self._replayed:
            self._replayed = True
            return {"type": "http.request", "body": await self.request.body(), "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        size = self._room_for(message)
        self.started = True
        for piece in _pieces(message):
            if piece["type"] == "http.response.body" and not piece.get("more_body", False):
                self._complete = True  # from here on the server calls the exchange disconnected
            await self._send(piece)
        drain: Callable[[], Awaitable[None]] | None = self.scope.get(DRAIN)
        if drain is not None:  # who does not read has the time of the call for it, and no more
            await drain()
        if message["type"] == "http.response.body":
            self._response.free(size)

    async def refuse(self, response: Response) -> None:
        """Send what says why there is nothing else; it is small, and needs no room."""
        self._counted = False
        await response(self.scope, self.receive, self.send)

    async def cut(self) -> None:
        """End the connection in the middle of the response."""
        close: Callable[[], None] | None = self.scope.get(ABORT)
        if close is not None:
            close()

    def close(self) -> None:
        """Give back the room that body and response took."""
        self._body.close()
        self._response.close()

    async def _tenant(self) -> str:
        call: Call | None = self.scope.get(CALL)
        if call is not None:
            return call.principal.tenant
        return await self._tenant_of(self.scope.get(PEER, ""), tuple(headers_of(self.scope)))

    def _room_for(self, message: Message) -> int:
        """Take room for a part of the response, all of it where its size is known at the start.

        Raises:
            ResponseLost: There is none.
        """
        if not self._counted:
            return 0
        size = len(message.get("body", b""))
        if message["type"] == "http.response.start":
            size = int(dict(message.get("headers", ())).get(b"content-length", 0))
            self._counted = not size
        try:
            self._response.take(self.scope[CALL].principal.tenant, size)
        except RoomTaken as error:
            self._lost = ResponseLost.of(size)
            raise self._lost from error
        return size

    async def _read(self) -> bytes:
        limit, tenant = self._route.max_body_bytes, await self._tenant()
        chunks = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            chunk: bytes = message.get("body", b"")
            self._body.take(tenant, len(chunk))
            if self._body.size > limit:
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


def headers_of(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
