"""One child as the agent sees it: one call in flight, killed rather than waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegis_agent.adapters.children import frames
from aegis_agent.adapters.children.events import Conversation
from aegis_agent.adapters.children.fork_server import Exit, ForkServer, kill_group
from aegis_agent.adapters.children.link import ChildEnded, Link
from aegis_agent.adapters.children.setup import WorkerSetup
from aegis_agent.domain.usage import Spent

_EXITING: Final = 0x4
_PROCESS_CLOCK: Final = 2
"""Marks the id of another process' CPU clock, as clock_getcpuclockid(3) makes it."""
_LEAKED: Final = 16
"""Threads and descriptors that a child may gain before it is replaced; libraries keep some of their own."""
_STANDARD: Final = 3
_USAGE: Final = ("rss", "fd", "threads", "strangers", "children_us")
_SETUP_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a child came to its end.

    Attributes:
        exit: Its status and what it used; None when what starts children has gone with it.
        ran: It was alive until it was killed here: it had only closed its connection.
        program: What ran in its place at the end, where that was another program.
        stopped: The signal that had stopped it, or 0.
        cpu_exceeded: CPU seconds that it had used beyond the limit, or None.
    """

    exit: Exit | None
    ran: bool
    program: str
    stopped: int
    cpu_exceeded: float | None


class Worker:
    """A child that is ready for calls.

    Attributes:
        pid: Its process id, and its process group's.
        about: What the factory tells of itself, or None.
        calls: How many calls it has answered.
        first_rss: Resident bytes when it was ready.
        ending: The task that sees the child off, once there is one.
        on_lost: Called when the child hangs up.
    """

    def __init__(self, server: ForkServer, setup: WorkerSetup, connection: socket.socket, pid: int) -> None:
        self._server = server
        self._limits = setup.limits
        self._setup = setup
        self._connection = connection
        self._link = Link()
        self._usage: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._accounted_s = 0.0
        self._killed = False
        self._ran = False
        self._program = ""
        self._stopped = 0
        self._cpu_exceeded: float | None = None
        self.pid: Final = pid
        self.about: Any = None
        self.confinement: dict[str, bool] = {}
        self.calls = 0
        self.first_rss = 0
        self.ending: asyncio.Task[Ending] | None = None
        self.on_lost: Callable[[Worker], None] | None = None

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
                pid = await server.spawn(theirs)
        except BaseException:
            ours.close()
            raise
        worker = cls(server, setup, ours, pid)
        server.watch(pid, worker.stopped)
        return worker

    async def prepare(self) -> dict[str, Any] | None:
        """Wait until the child is ready; return the fault if it could not be set up.

        Raises:
            ChildEnded: The child ended during its set-up.
            ReplyTooLarge: What it tells of itself is too large.
        """
        self._link = await Link.over(self._connection)
        self._link.on_end = self._lost
        await self._link.send(frames.encode(self._setup.to_frame()))
        answer, _ = await self._link.receive(_SETUP_BYTES)
        answer = _mapping(answer)
        self.about = answer.get("value")
        self.confinement = answer.get("confinement", {})
        self.first_rss = int(answer.get("rss", 0))
        self._accounted_s = self.cpu_s()
        fault: dict[str, Any] | None = answer.get("fault")
        return fault

    @property
    def alive(self) -> bool:
        """Whether the child still holds its end of the connection, and has nothing to say unasked."""
        if self._killed or self._link.ended or not self._link.quiet:
            return False
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def worn_out(self) -> str:
        """Why the child must be replaced: it has served its calls, or something has grown; else empty."""
        usage, first, limits = self._usage, self._first, self._limits
        if self.calls >= limits.recycle_calls:
            return "calls"
        if usage.get("rss", 0) - first.get("rss", 0) > limits.recycle_growth_bytes:
            return "memory"
        if usage.get("strangers", 0) > 0 or usage.get("threads", 0) - first.get("threads", 0) > _LEAKED:
            return "threads"
        if usage.get("fd", _STANDARD) < _STANDARD or usage.get("fd", 0) - first.get("fd", 0) > _LEAKED:
            return "descriptors"
        return ""

    async def call(self, frame: bytes, conversation: Conversation) -> dict[str, Any]:
        """Run the call that *frame* holds; return `{"value": ...}` or `{"fault": ...}`.

        Raises:
            ChildEnded: The child ended, or sent what makes no sense.
            ReplyTooLarge: It sent more than it may; it must be killed.
        """
        await self._link.send(frame)
        answer = await self.finish(conversation)
        self.calls += 1
        try:
            before = self._usage.get("children_us", 0)
            self._usage = {name: int(answer[name]) for name in _USAGE}
        except (KeyError, TypeError, ValueError) as error:
            raise ChildEnded("sent nonsense") from error
        self._first = self._first or self._usage
        self._accounted_s -= max(self._usage["children_us"] - before, 0) / 1e6
        return answer

    async def finish(self, conversation: Conversation) -> dict[str, Any]:
        """Take what the child says until the call is over; return its answer."""
        while True:
            message, size = await self._link.receive(conversation.most)
            message = _mapping(message)
            if "value" in message or "fault" in message:
                return message
            if (reply := await conversation.take(message, size)) is not None:
                await self._link.send(reply)

    def cpu_s(self) -> float:
        """Return the CPU seconds that the child has used, all its threads together; 0 when it has ended."""
        try:
            return time.clock_gettime(~self.pid << 3 | _PROCESS_CLOCK)
        except OSError:
            return 0.0

    def account(self, spent: Spent, ending: Ending | None = None) -> None:
        """Tell *spent* the CPU time since this was called last, and what is resident.

        The kernel says it of the child itself, of all its threads; what it started and waited for it tells
        with its answer, or the kernel where it has ended.

        Args:
            spent: Of the call that it had.
            ending: How it ended, if it has.
        """
        exit_ = ending.exit if ending is not None else None
        counted = self._usage.get("children_us", 0) / 1e6  # of earlier calls
        now = exit_.cpu_s - counted if exit_ is not None else self.cpu_s()
        rss = exit_.rss if exit_ is not None else self._usage.get("rss", self.first_rss)
        spent.add(max(now - self._accounted_s, 0.0), peak_bytes=rss)
        self._accounted_s = max(now, self._accounted_s)

    def kill_for_cpu(self, used_s: float) -> None:
        self._cpu_exceeded = used_s
        self.kill()

    def stopped(self, number: int) -> None:
        """Kill the child, which was stopped by a signal: nobody would continue it."""
        self._stopped = number
        self.kill()

    def _lost(self) -> None:
        if not self._killed and self.on_lost is not None:
            self.on_lost(self)

    def terminate(self) -> None:
        """Let the tool know that its call is cancelled."""
        if not self._killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the child and all of its process group, at once."""
        if self._killed:
            return
        self._killed = True
        kill_group(self.pid)
        if not self._link.close():  # nothing has taken the socket over yet
            self._connection.close()

    def see_last(self) -> None:
        """Look, before it is killed, what has become of a child that hung up."""
        if not self._killed:
            self._ran, self._program = _last_seen(self.pid)

    async def ended(self) -> Ending:
        """Kill the child and say how it ended."""
        self.kill()
        exit_ = await self._server.reap(self.pid)
        return Ending(
            exit=exit_,
            ran=self._ran,
            program=self._program,
            stopped=self._stopped,
            cpu_exceeded=self._cpu_exceeded,
        )


def _mapping(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise ChildEnded("sent nonsense")
    return answer


def _last_seen(pid: int) -> tuple[bool, str]:
    """Return whether a process still runs, and which program it is where that is not this one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX" or int(fields[6]) & _EXITING:
            return False, ""
        program = Path(f"/proc/{pid}/exe").readlink()
        mine = Path("/proc/self/exe").readlink()
    except OSError:
        return False, ""
    return True, "" if program == mine else program.name
