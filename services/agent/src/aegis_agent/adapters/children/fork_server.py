"""The agent's side of the zygote: starts it, asks it for children, learns how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aegis_agent.adapters.children.setup import WorkerLimits, refuse_in_child
from aegis_agent.domain.errors import ToolCrashed

T = TypeVar("T")

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 5.0
_REAP_TIMEOUT_S: Final = 5.0
_BUSY_S: Final = 0.005
_REPLY_BYTES: Final = 4096
_BOOT: Final = (
    "import json, socket, sys; control = socket.socket(fileno=int(sys.argv[1])); "
    "start = json.loads(control.recv(1 << 20)); sys.path[:] = start['path']; "
    "from aegis_agent.adapters.children.zygote import main; main(control, start['preload'])"
)
_log: Final = logging.getLogger(__name__)

# What parses a user's bytes must not find keys, or paths of keys; /proc shows even what was unset later.
_SECRET: Final = re.compile(
    r"^(AEGIS|OIDC|REDIS|CARBON|AWS|AZURE)_|SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|(API|ACCESS)_?KEY",
    re.IGNORECASE,
)
_SINGLE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""A fork copies one thread only, so no library may have started others."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended.

    Attributes:
        status: Exit status, negative for a signal.
        cpu_s: CPU seconds that it and its children used.
        rss: The most resident bytes that it had.
    """

    status: int
    cpu_s: float
    rss: int


class _Gone(ToolCrashed):
    """The process that starts children has ended."""


class ForkServer:
    """Starts children by forking a process that has imported their modules already.

    Args:
        preload: Modules to import before the first fork; one that is missing is left to the child.
    """

    def __init__(self, preload: Iterable[str] = ()) -> None:
        self._preload = list(dict.fromkeys(preload))
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tokens = itertools.count()
        self._spawning: dict[int, asyncio.Future[int]] = {}
        self._reaping: dict[int, asyncio.Future[Exit | None]] = {}
        self._forgotten: set[asyncio.Task[Exit | None]] = set()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._warned = False

    def preload(self, modules: Iterable[str]) -> None:
        """Import *modules* as well, from the next start on."""
        self._preload += [module for module in modules if module not in self._preload]

    @property
    def running(self) -> bool:
        return self._reader is not None and not self._reader.done()

    def start(self) -> None:
        """Start the zygote; nothing happens while it runs.

        Raises:
            InvalidTool: This process is itself a tool's child.
        """
        if self.running:
            return
        refuse_in_child()
        self._end_process()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the agent, which then stops its children in order
            )
        ours.send(json.dumps({"path": sys.path, "preload": self._preload}).encode())
        self._control = ours
        self._reader = asyncio.get_running_loop().create_task(self._read(ours))

    async def spawn(self, connection: socket.socket) -> int:
        """Fork a child that serves *connection*; return its process id, which is its group's too.

        Raises:
            ToolCrashed: No child could be started.
        """
        try:
            return await self._spawn(connection)
        except _Gone:  # it had been killed; a fresh one is as good
            if self._reader is not None:
                await asyncio.wait({self._reader}, timeout=_STOP_TIMEOUT_S)
            return await self._spawn(connection)

    async def _spawn(self, connection: socket.socket) -> int:
        self.start()
        token = next(self._tokens)
        pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._spawning[token] = pid
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._send({"spawn": token}, [connection.fileno()])
                return await pid
        except (OSError, TimeoutError) as error:
            raise ToolCrashed(
                f"no child process could be started: {str(error) or 'the fork server is busy'}"
            ) from error
        finally:
            del self._spawning[token]

    def confined(self, holds: dict[str, bool], limits: WorkerLimits) -> None:
        """Say once what this machine does not refuse a child that should not have it."""
        open_ = [
            name
            for name, allowed in (("processes", limits.may_fork), ("network", limits.network))
            if not allowed and not holds.get(name)
        ]
        if open_ and not self._warned:
            self._warned = True
            _log.warning("children are not confined here", extra={"not_refused": open_})

    def watch(self, pid: int, stopped: Callable[[int], None]) -> None:
        """Call *stopped* with the number of the signal when a child is stopped; until it is reaped."""
        self._watched[pid] = stopped

    async def reap(self, pid: int) -> Exit | None:
        """Wait for a child that has ended or was killed; return how it ended.

        Returns None when the zygote that had it is gone, and every child with it, or does not answer.
        """
        self._watched.pop(pid, None)
        if not self.running:
            return None
        ended: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
        self._reaping[pid] = ended
        try:
            async with asyncio.timeout(_REAP_TIMEOUT_S):
                await self._send({"reap": pid}, [])
                return await ended
        except (OSError, TimeoutError, ToolCrashed):
            return None
        finally:
            del self._reaping[pid]

    async def close(self) -> None:
        """End the zygote and whatever children it still has."""
        self._hang_up()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_S)
        self._end_process()

    def _hang_up(self) -> None:
        """Close the control socket: the zygote then ends, and its children with it."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()
            self._control = None

    def _end_process(self) -> None:
        self._hang_up()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def _send(self, command: dict[str, Any], descriptors: list[int]) -> None:
        data = json.dumps(command).encode()
        while True:
            if self._control is None or not self.running:
                raise _Gone("the process that starts children has ended")
            with contextlib.suppress(BlockingIOError):
                try:
                    socket.send_fds(self._control, [data], descriptors)
                except (BrokenPipeError, ConnectionResetError) as error:
                    raise _Gone("the process that starts children has ended") from error
                return
            await asyncio.sleep(_BUSY_S)

    def _forget(self, pid: int) -> None:
        kill_group(pid)
        task = asyncio.get_running_loop().create_task(self.reap(pid))
        self._forgotten.add(task)
        task.add_done_callback(self._forgotten.discard)

    async def _read(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(control, _REPLY_BYTES):
                self._take(json.loads(data))
            self._end_groups()
        except OSError:
            self._end_groups()
        finally:
            gone = _Gone("the process that starts children has ended")
            waiting: list[asyncio.Future[Any]] = [*self._spawning.values(), *self._reaping.values()]
            for future in waiting:
                if not future.done():
                    future.set_exception(gone)

    def _end_groups(self) -> None:
        """Children die with the zygote; kill what they have started."""
        for pid in self._watched:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        self._watched.clear()

    def _take(self, reply: dict[str, Any]) -> None:
        if "reaped" in reply:
            known = reply["status"] is not None
            ended = Exit(reply["status"], reply["cpu_s"], reply["rss"]) if known else None
            _settle(self._reaping.get(reply["reaped"]), ended)
        elif "stopped" in reply:
            if (stopped := self._watched.get(reply["stopped"])) is not None:
                stopped(reply["signal"])
        elif "pid" in reply:
            _settle(self._spawning.get(reply["token"]), reply["pid"])
            if reply["token"] not in self._spawning:  # the caller went away meanwhile
                self._forget(reply["pid"])
        elif (waiting := self._spawning.get(reply["token"])) is not None and not waiting.done():
            waiting.set_exception(ToolCrashed(f"no child process could be started: {reply['error']}"))


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not _SECRET.search(name)}  # noqa: TID251
    return kept | dict.fromkeys(_SINGLE_THREAD, "1")


def _settle(waiting: asyncio.Future[T] | None, value: T) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(value)


def kill_group(pid: int) -> None:
    # before the child has made its group, the group's id is no process group at all
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
