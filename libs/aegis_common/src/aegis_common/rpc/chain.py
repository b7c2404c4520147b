"""The interceptor chain: layers around each call, the same for all four kinds of method.

A layer is a coroutine that awaits what is inside it. That keeps one piece of code for unary calls and streams
alike, and costs a call less than a context manager for each layer would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from aegis_common.auth.identify import Identifier
from aegis_common.errors import AegisError, InvalidArgument
from aegis_common.rpc.access import MethodRule
from aegis_common.rpc.call import Call, Context, Metadata, Transport, enter_call

_MAX_PATH: Final = 128
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
T = TypeVar("T")

Inner = Callable[[], Awaitable[T]]
"""What a layer has inside it: the layers below, and the call itself."""


class Layer(Protocol):
    """One concern of the chain, for example identity."""

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        """Return what *inner* returns; an exception raised before it is awaited refuses the call."""
        ...


RequestCheck = Callable[[Any], None]
"""Refuses a request message by raising; called for each message of a stream."""


class Chain:
    """The layers, outermost first, and how many calls are inside; all listeners of a service share one.

    A method that the table does not know gets a rule that admits nobody.

    Args:
        table: Every method by its path.
        layers: Outermost first.
        identifier: Finds out whose a request is ahead of the layers.
    """

    def __init__(
        self, table: Mapping[str, MethodRule], layers: Sequence[Layer], identifier: Identifier | None = None
    ) -> None:
        self._table = table
        self._identifier = identifier
        self._inside_out = tuple(reversed(layers))
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def rule(self, path: str) -> MethodRule:
        """Return the rule of the method *path*, `/package.Service/Method`."""
        return self._table.get(path) or MethodRule(path)

    def unknown(self, path: str) -> MethodRule:
        """Return the rule of a call that asks for what there is not: anybody may, and it is audited."""
        return MethodRule(path[:_MAX_PATH], public=True)

    async def tenant(self, peer_spiffe_id: str, metadata: Metadata) -> str:
        """Return whose a request is that does not say yet what it asks for; empty where that is not known."""
        if self._identifier is None:
            return ""
        try:
            found = await self._identifier.identify(peer_spiffe_id, metadata, on_behalf_of=frozenset())
        except AegisError:  # the identity layer refuses it
            return ""
        return found.tenant

    async def serve(self, call: Call, context: Transport, inner: Inner[T]) -> T:
        """Return what *inner* returns: within it *call* is the current call, and every layer is around it.

        Raises:
            Exception: What *context* raises when a layer ends the call with a status.
        """
        enter_call(call)
        for layer in self._inside_out:
            inner = partial(layer.serve, call, context, inner)
        self._running += 1
        self._idle.clear()
        try:
            return await inner()
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no call is being served; a cancelled one is until it has cleaned up."""
        await self._idle.wait()


Served = Callable[[Any, Context], Any]
"""A handler's method: of a request or a stream of them, and the call's context."""
Checked = Callable[[Any], Any]
"""Returns a request, or a stream of them, once it is checked."""


class UnreadableRequest(InvalidArgument):
    """What was sent is no message of the method."""

    reason = "UNREADABLE_REQUEST"


class ChainInterceptor(grpc.aio.ServerInterceptor):
    """Put *chain* around every gRPC handler, and *check* in front of every request message."""

    def __init__(self, chain: Chain, check: RequestCheck) -> None:
        self._chain = chain
        self._check = check
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler: Any = await continuation(handler_call_details)
        path = str(handler_call_details.method)
        if handler is None:
            return self._unknown(path)
        known = self._wrapped.get(path)
        if known is None or known[0] is not handler:
            known = self._wrapped[path] = handler, self._wrap(self._chain.rule(path), handler)
        return known[1]

    def _unknown(self, path: str) -> Handler:
        """Return what answers a method that there is not as gRPC itself would, inside the chain."""

        async def run(_: Any, context: Context) -> None:
            async def serve() -> None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

            await self._chain.serve(_begin(self._chain.unknown(path), context), context, serve)

        return grpc.stream_stream_rpc_method_handler(run)

    def _wrap(self, rule: MethodRule, handler: Any) -> Handler:
        kind = _kind(handler)
        inner = getattr(handler, kind)
        checked = self._checked_stream if handler.request_streaming else self._checked
        wrapped = (self._stream if handler.response_streaming else self._unary)(rule, inner, checked)
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        read = handler.request_deserializer and partial(_read, handler.request_deserializer)
        result: Handler = make(wrapped, read, handler.response_serializer)
        return result

    def _unary(self, rule: MethodRule, inner: Served, checked: Checked) -> Served:
        async def run(request: Any, context: Context) -> Any:
            async def serve() -> Any:
                return await inner(checked(request), context)

            return await self._chain.serve(_begin(rule, context), context, serve)

        return run

    def _stream(self, rule: MethodRule, inner: Served, checked: Checked) -> Served:
        # A coroutine that writes, not a generator: a cancelled generator ends late, outside this frame.
        async def run(request: Any, context: Context) -> None:
            async def serve() -> None:
                outcome = inner(checked(request), context)
                if not hasattr(outcome, "__aiter__"):
                    await outcome  # a handler that calls context.write itself
                    return
                async with aclosing(outcome) as responses:
                    async for response in responses:
                        await context.write(response)

            await self._chain.serve(_begin(rule, context), context, serve)

        return run

    def _checked(self, request: Any) -> Any:
        if request is _UNREADABLE:
            raise UnreadableRequest("the bytes of the request are no message of the method's type")
        self._check(request)
        return request

    async def _checked_stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._checked(request)


_UNREADABLE: Final = object()


def _read(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    """Return a message, or `_UNREADABLE`: only within the chain can a request be refused and audited."""
    try:
        return deserialize(data)
    except (DecodeError, ValueError):
        return _UNREADABLE


def _kind(handler: Any) -> str:
    request = "stream" if handler.request_streaming else "unary"
    return f"{request}_{'stream' if handler.response_streaming else 'unary'}"


_SPIFFE_KEY: Final = "peer_spiffe_id"


def _begin(rule: MethodRule, context: Context) -> Call:
    peers: Any = context.auth_context()
    identities = [*peers.get(_SPIFFE_KEY, ()), b""]
    return Call.begin(
        rule,
        metadata=tuple(context.invocation_metadata() or ()),
        peer_spiffe_id=identities[0].decode("utf-8", "replace"),
        timeout_s=context.time_remaining(),
    )
