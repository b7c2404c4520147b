"""One supervised process: start, readiness, restart with backoff, stop with its whole family."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from aegis_common.errors import AegisError, ErrorKind
from aegis_local.supervisor import launch
from aegis_local.supervisor.logs import LogSink, pump
from aegis_local.supervisor.processes import MARK, SERVICE, marked, signal_all, with_descendants
from aegis_local.supervisor.spec import NotReady, ProcessSpec

_KILL_WITHIN_S: Final = 10.0
_LONGEST_LINE: Final = 300


class StartFailed(AegisError):
    """A process did not come up; the message holds its last words."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "START_FAILED"


class State(StrEnum):
    """Where a process stands."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before a restart, in seconds: doubled at each crash, forgotten after a quiet time."""

    first: float = 0.5
    most: float = 30.0
    quiet: float = 60.0

    def delay(self, crashes: int) -> float:
        return float(min(self.most, self.first * 2 ** min(crashes - 1, 16)))


class Child:
    """Runs one `ProcessSpec` until told to stop.

    Args:
        spec: What to run.
        stack: Value of the mark that all processes of the stack carry.
        sink: Takes its output and the supervisor's own remarks about it.
        backoff: Wait before restarts.
        changed: Called after each change of `state`.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        stack: str,
        sink: LogSink,
        backoff: Backoff,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.state = State.PENDING
        self.pid: int | None = None
        self.restarts = 0
        self.exit_code: int | None = None
        self._stack = stack
        self._sink = sink
        self._backoff = backoff
        self._changed = changed
        self._stopping = asyncio.Event()
        self._exited = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process, wait until it is ready, and keep it running from then on.

        Raises:
            StartFailed: It ended, or was not ready in time; nothing of it is left then.
        """
        self._spawn()
        problem = await self._until_ready()
        if problem:
            await self._end_family()
            self._become(State.FAILED)
            raise StartFailed(self._last_words(problem), process=self.spec.name)
        self._become(State.READY)
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ask the process to end, wait for its drain, and kill what is left of its family."""
        self._stopping.set()
        if self.pid is not None and not self._exited.is_set():
            signal_all([self.pid], signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), self.spec.drain)
        await self._end_family()
        if self._keeper is not None:
            await self._keeper
        if self.state is not State.FAILED:
            self._become(State.STOPPED)

    def _spawn(self) -> None:
        self._become(State.STARTING)
        env = {**self.spec.env, MARK: self._stack, SERVICE: self.spec.name}
        argv = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *self.spec.argv]
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=self.spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self.pid = process.pid
        self.exit_code = None
        self._exited = asyncio.Event()
        self._watch_exit(process, self._exited)
        self._pump = asyncio.create_task(self._copy_output(read_end))

    def _watch_exit(self, process: subprocess.Popen[bytes], exited: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(process.pid)

        def on_exit() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self.exit_code = process.wait()
            exited.set()

        loop.add_reader(pidfd, on_exit)

    async def _copy_output(self, read_end: int) -> None:
        reader = asyncio.StreamReader()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            await pump(reader, self._sink)
        finally:
            transport.close()

    async def _until_ready(self) -> str:
        """Return an empty string when the process is ready, or else what is wrong."""
        problem = "it does not answer yet"
        end = time.monotonic() + self.spec.ready_timeout
        pause = 0.05
        while not self._exited.is_set():
            try:
                if self.spec.ready is not None:
                    await self.spec.ready()
                if not self._exited.is_set():
                    return ""
            except (NotReady, OSError) as error:
                problem = str(error) or type(error).__name__
            if time.monotonic() > end:
                return f"was not ready within {self.spec.ready_timeout:g} s: {problem}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), pause)
            pause = min(pause * 1.5, 0.5)
        return f"ended with {_exit_text(self.exit_code)} before it was ready"

    async def _keep(self) -> None:
        crashes, started = 0, time.monotonic()
        while True:
            await self._exited.wait()
            await self._end_family()
            if self._stopping.is_set():
                return
            crashes = 1 if time.monotonic() - started > self._backoff.quiet else crashes + 1
            delay = self._backoff.delay(crashes)
            self._sink.write(f"[supervisor] ended with {_exit_text(self.exit_code)}; restart in {delay:g} s")
            self._become(State.BACKING_OFF)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
                return
            self.restarts += 1
            started = time.monotonic()
            self._spawn()
            if problem := await self._until_ready():
                self._sink.write(f"[supervisor] {problem}")
                await self._end_family()
            else:
                self._become(State.READY)

    async def _end_family(self) -> None:
        end = time.monotonic() + _KILL_WITHIN_S
        while True:
            roots = marked(self._stack, service=self.spec.name)
            if self.pid is not None and not self._exited.is_set():
                roots.add(self.pid)
            family = with_descendants(roots)
            if not family or time.monotonic() > end:
                break
            signal_all(family, signal.SIGKILL)
            await asyncio.sleep(0.02)
        if self._pump is not None:
            await self._pump
            self._pump = None

    def _last_words(self, problem: str) -> str:
        tail = "".join(f"\n    {_shortened(line)}" for line in self._sink.tail)
        return f"{self.spec.name} {problem}" + (
            f"; its last lines:{tail}" if tail else "; it printed nothing"
        )

    def _become(self, state: State) -> None:
        self.state = state
        self._changed()


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"


def log_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.log"
