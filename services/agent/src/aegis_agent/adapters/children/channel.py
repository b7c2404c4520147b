"""Inside a child: its end of the connection to the agent."""

from __future__ import annotations

import socket
import threading
from typing import Any, Final

from aegis_agent.adapters.children import frames

_WASTE: Final = 64 << 10


class Channel:
    """Sends and receives frames; a tool may use its context from several threads at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._turn = threading.RLock()
        self._waste = bytearray(_WASTE)

    def send(self, frame: bytes) -> None:
        with self._turn:
            self._connection.sendall(frame)

    def ask(self, frame: bytes) -> Any:
        """Send *frame* and wait for the answer to it."""
        with self._turn:
            self._connection.sendall(frame)
            return self.receive()

    def receive(self) -> Any:
        """Wait for a frame.

        Raises:
            EOFError: The agent has hung up.
            MemoryError: It does not fit the child's memory; the next one can be received.
        """
        text_size, blob_size = frames.size_of(bytes(self._exactly(frames.HEADER.size)))
        data = memoryview(self._exactly(text_size + blob_size))
        return frames.decode(data[:text_size], data[text_size:])

    def _exactly(self, size: int) -> bytearray:
        try:
            data = bytearray(size)
        except MemoryError:
            self._skip(size)
            raise
        view = memoryview(data)
        done = 0
        while done < size:
            done += self._some(view[done:])
        return data

    def _skip(self, size: int) -> None:
        waste = memoryview(self._waste)
        while size:
            size -= self._some(waste[:size])

    def _some(self, view: memoryview) -> int:
        count = self._connection.recv_into(view)
        if not count:
            raise EOFError
        return count
