"""One child as the agent sees it: one call in flight, killed rather than waited for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import Any, Final

from aegis_agent.adapters.workers import frames
from aegis_agent.adapters.workers.fork_server import ForkServer, kill_group
from aegis_agent.adapters.workers.setup import WorkerSetup

_FRAME_SLACK: Final = 4096


class ChildEnded(Exception):
    """The child closed its connection."""


class ReplyTooLarge(Exception):
    """The child announced more bytes than it may send."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Worker:
    """A child that is ready for calls.

    Attributes:
        pid: Its process id, and its process group's.
        about: What the factory tells of itself, or None.
        calls: How many calls it has answered.
        ending: The task that sees the child off, once there is one.
    """

    def __init__(self, server: ForkServer, setup: WorkerSetup, connection: socket.socket, pid: int) -> None:
        self._server = server
        self._setup = setup
        self._connection = connection
        self._first_rss: int | None = None
        self._rss = 0
        self._killed = False
        self._exchanging = False
        self.pid: Final = pid
        self.about: Any = None
        self.calls = 0
        self.ending: asyncio.Task[str] | None = None

    @classmethod
    async def spawn(cls, server: ForkServer, setup: WorkerSetup) -> Worker:
        """Start a child; it is of use once `prepare` has returned.

        Raises:
            ToolCrashed: No child could be started.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                return cls(server, setup, ours, await server.spawn(theirs))
        except BaseException:
            ours.close()
            raise

    async def prepare(self) -> dict[str, Any] | None:
        """Wait until the child is ready; return the fault if it could not be set up.

        Raises:
            ChildEnded: The child ended during its set-up.
        """
        answer = await self._exchange(frames.encode(self._setup.to_frame()))
        self.about = answer.get("value")
        return answer.get("fault")

    @property
    def alive(self) -> bool:
        """Whether the child still holds its end of the connection."""
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def worn_out(self) -> bool:
        """Whether the child has served its calls, or its memory has grown too much."""
        limits = self._setup.limits
        growth = self._rss - (self._first_rss or self._rss)
        return self.calls >= limits.recycle_calls or growth > limits.recycle_growth_bytes

    async def call(self, frame: bytes) -> dict[str, Any]:
        """Run the call that *frame* holds; return `{"value": ...}` or `{"fault": ...}`.

        Raises:
            ChildEnded: The child ended, or sent what is no frame.
            ReplyTooLarge: The answer is beyond the limit; the child must be killed.
        """
        answer = await self._exchange(frame)
        self.calls += 1
        self._rss = int(answer.get("rss", 0))
        if self._first_rss is None:
            self._first_rss = self._rss
        return answer

    def kill(self) -> None:
        """Kill the child and all of its process group, at once."""
        if self._killed:
            return
        self._killed = True
        kill_group(self.pid)
        if self._exchanging:  # whoever waits for an answer sees the end, and closes
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        else:
            self._connection.close()

    async def ended(self) -> str:
        """Kill the child and say how it ended, for an error message."""
        self.kill()
        status = await self._server.reap(self.pid)
        if status is None:
            return "together with the process that starts children"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"by signal {signal.Signals(-status).name}"
        return f"with exit status {status}"

    async def _exchange(self, frame: bytes) -> dict[str, Any]:
        if self._killed:
            raise ChildEnded("it was killed")
        self._exchanging = True
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, frame)
            text_size, blob_size = frames.size_of(bytes(await self._exactly(frames.HEADER.size)))
            size = text_size + blob_size
            if size > self._setup.limits.output_bytes + _FRAME_SLACK:
                raise ReplyTooLarge(size)
            body = await self._exactly(size)
            answer = frames.decode(body[:text_size], body[text_size:])
        except (OSError, frames.FrameError) as error:
            raise ChildEnded(str(error)) from error
        finally:
            self._exchanging = False
            if self._killed:
                self._connection.close()
        if not isinstance(answer, dict):
            raise ChildEnded("its answer has the wrong form")
        return answer

    async def _exactly(self, size: int) -> memoryview:
        view = memoryview(bytearray(size))
        loop = asyncio.get_running_loop()
        done = 0
        while done < size:
            count = await loop.sock_recv_into(self._connection, view[done:])
            if not count:
                raise ChildEnded("it closed its connection")
            done += count
        return view
