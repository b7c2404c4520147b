"""The agent's end of the connection to a child: reads frames, and no more than it must hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from aegis_agent.adapters.children import frames

_HIGH_WATER: Final = 256 << 10
_LANDING: Final = 64 << 10
_HEADER: Final = frames.HEADER.size


class ChildEnded(Exception):
    """The child closed its connection, or sent what is no frame."""


class ReplyTooLarge(Exception):
    """The child announced more bytes than it may send."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Link(asyncio.BufferedProtocol):
    """Reads frames from a child, and writes to it, never waiting longer than whoever calls."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._landing = bytearray(_LANDING)  # a fresh object for each read would cost more than the read
        self._needed = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self.ended = False
        self.on_end: Callable[[], None] | None = None

    @classmethod
    async def over(cls, connection: socket.socket) -> Link:
        """Take over a connected socket."""
        _, link = await asyncio.get_running_loop().connect_accepted_socket(cls, connection)
        return link

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that nobody asked for."""
        return not self._buffer

    async def send(self, frame: bytes) -> None:
        """Write a frame, and wait until the child has taken most of it.

        Raises:
            ChildEnded: It will not.
        """
        if self.ended or self._transport is None:
            raise ChildEnded("its connection is closed")
        self._transport.write(frame)
        if not self._writable.is_set():
            await self._writable.wait()
            if self.ended:
                raise ChildEnded("it closed its connection")

    async def receive(self, most: int) -> tuple[Any, int]:
        """Wait for a frame; return its value and its size in bytes. A cancelled wait loses nothing.

        Raises:
            ChildEnded: There is none to come, or what came is none.
            ReplyTooLarge: It is larger than *most* bytes; the child must be killed.
        """
        try:
            await self._have(_HEADER)
            text_size, blob_size = frames.size_of(bytes(self._buffer[:_HEADER]))
            size = text_size + blob_size
            if size > most:
                raise ReplyTooLarge(size)
            await self._have(_HEADER + size)
            with memoryview(self._buffer) as view:
                text, blobs = view[_HEADER : _HEADER + text_size], view[_HEADER + text_size : _HEADER + size]
                with text, blobs:
                    value = frames.decode(text, blobs)
        except frames.FrameError as error:
            raise ChildEnded("sent what is no frame") from error
        del self._buffer[: _HEADER + size]
        self._resume()
        return value, size

    def close(self) -> bool:
        """Hang up at once; return whether there was a connection."""
        if self._transport is None:
            return False
        self._transport.abort()
        return True

    async def _have(self, size: int) -> None:
        while len(self._buffer) < size:
            if self.ended:
                raise ChildEnded("it closed its connection")
            self._needed = size
            self._resume()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._needed = 0

    def _resume(self) -> None:
        if (
            self._paused
            and self._transport is not None
            and len(self._buffer) < max(self._needed, _HIGH_WATER)
        ):
            self._paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what a stream socket has
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        return self._landing

    def buffer_updated(self, nbytes: int) -> None:
        self._buffer += memoryview(self._landing)[:nbytes]
        if len(self._buffer) >= max(self._needed, _HIGH_WATER) and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if len(self._buffer) >= self._needed:
            self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.ended = True
        self._writable.set()
        self._wake()
        if self.on_end is not None:
            self.on_end()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            with contextlib.suppress(asyncio.InvalidStateError):
                self._waiter.set_result(None)
