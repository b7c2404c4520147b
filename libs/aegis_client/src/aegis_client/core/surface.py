"""One description of the surface for both clients.

`unary(build)` is a method that waits in `Client` and is awaited in `AsyncClient`; `stream(build)` is one that
returns an iterator or an async iterator. *build* makes the request and says how the answer is read.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from google.protobuf.message import DecodeError

from aegis_client.core.asynchronous import AsyncTransport
from aegis_client.core.operation import Feed, Listing, Operation, Watch
from aegis_client.core.synchronous import SyncTransport
from aegis_client.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class SyncApi:
    """A group of calls of `Client`."""

    def __init__(self, transport: SyncTransport) -> None:
        self.transport = transport


class AsyncApi:
    """A group of calls of `AsyncClient`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self.transport = transport


class unary(Generic[P, T]):  # noqa: N801  # reads as a keyword of the surface
    """A call with one answer. With `reads_files`, the async client builds the request in a thread."""

    def __init__(self, build: Callable[P, Operation[T]], *, reads_files: bool = False) -> None:
        self.__doc__ = build.__doc__
        self._build = _checked(build)
        self._shown = _shown(build)
        self._name = ""
        self._reads_files = reads_files

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, api: None, owner: type) -> Self: ...
    @overload
    def __get__(self, api: SyncApi, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, api: AsyncApi, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, api: SyncApi | AsyncApi | None, owner: type) -> object:
        if api is None:
            return self
        made = self._sync(api.transport) if isinstance(api, SyncApi) else self._async(api.transport)
        return _documented(made, self._build, self._shown, self._name)

    def _sync(self, transport: SyncTransport) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return transport.call(self._build(*args, **kwargs))

        return call

    def _async(self, transport: AsyncTransport) -> Callable[P, Coroutine[Any, Any, T]]:
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._reads_files:
                return await transport.call(await asyncio.to_thread(self._build, *args, **kwargs))
            return await transport.call(self._build(*args, **kwargs))

        return call


class stream(Generic[P, T]):  # noqa: N801
    """A list that is fetched page by page, a watch that reconnects unseen, or a feed that is read once.

    Leaving the loop, or `close()` (`aclose()`) on the iterator, ends the call. With `reads_files`, the async
    client builds the request in a thread.
    """

    def __init__(
        self,
        build: Callable[P, Listing[T]] | Callable[P, Watch[T]] | Callable[P, Feed[T]],
        *,
        reads_files: bool = False,
    ) -> None:
        self.__doc__ = build.__doc__
        self._build: Callable[P, Listing[T] | Watch[T] | Feed[T]] = _checked(build)
        self._shown = _shown(build)
        self._name = ""
        self._reads_files = reads_files

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, api: None, owner: type) -> Self: ...
    @overload
    def __get__(self, api: SyncApi, owner: type) -> Callable[P, Generator[T]]: ...
    @overload
    def __get__(self, api: AsyncApi, owner: type) -> Callable[P, AsyncGenerator[T]]: ...
    def __get__(self, api: SyncApi | AsyncApi | None, owner: type) -> object:
        if api is None:
            return self
        transport = api.transport
        if self._reads_files and isinstance(transport, AsyncTransport):
            return _documented(self._later(transport), self._build, self._shown, self._name)

        def call(*args: P.args, **kwargs: P.kwargs) -> Generator[T] | AsyncGenerator[T]:
            return transport.iterate(self._build(*args, **kwargs))

        return _documented(call, self._build, self._shown, self._name)

    def _later(self, transport: AsyncTransport) -> Callable[P, AsyncGenerator[T]]:
        async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T]:
            described = await asyncio.to_thread(self._build, *args, **kwargs)
            async with aclosing(transport.iterate(described)) as events:
                async for event in events:
                    yield event

        return call


def _checked(build: Callable[P, T]) -> Callable[P, T]:
    """Return *build* with a `UsageError` for what protobuf itself refuses, such as a number too large."""

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return build(*args, **kwargs)
        except UsageError:
            raise
        except DecodeError as error:
            raise UsageError(f"a value is nested too deeply to be sent: {error}") from error
        except ValueError as error:
            raise UsageError(f"a value cannot be sent: {error}") from error

    return checked


def _shown(build: Callable[..., object]) -> inspect.Signature:
    """Return the parameters of *build*; what it returns is not what the caller gets."""
    return inspect.signature(build).replace(return_annotation=inspect.Signature.empty)


def _documented(
    call: Callable[P, Any], build: Callable[P, Any], shown: inspect.Signature, name: str
) -> Callable[P, Any]:
    functools.update_wrapper(call, build)
    call.__name__ = call.__qualname__ = name
    call.__signature__ = shown  # type: ignore[attr-defined]
    return call
