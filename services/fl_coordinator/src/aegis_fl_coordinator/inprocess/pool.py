"""A pool of client processes. A process that dies or is stopped fails its work and is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from aegis_fl_coordinator.inprocess.frames import Closed, read_frame, write_frame

_MODULE: Final = "aegis_fl_coordinator.inprocess.worker"


@dataclass(eq=False, slots=True)
class Work:
    """One message to one node.

    Attributes:
        key: Id of the message.
        node: Works of one node never run at the same time.
        frame: Returns what the process gets, when its turn has come.
        done: Called once, in a thread of the pool: with the answer, or with None and why there is none.
    """

    key: str
    node: int
    frame: Callable[[], tuple[bytes, ...]]
    done: Callable[[list[bytes] | None, str], None]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    cancelled: str = field(default="", init=False)


class Pool:
    """Processes that serve one app.

    Args:
        folder: The unpacked app.
        size: Number of processes. Range: 1 and up.
        log: File for what the app prints.
        environment: The processes' whole environment.
    """

    def __init__(self, folder: Path, *, size: int, log: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._log = log
        self._environment = dict(environment)
        self._changed = threading.Condition()
        self._queue: deque[Work] = deque()
        self._running: dict[int, Work] = {}
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Queue *work*; it runs when a process is free and the node has nothing else to do."""
        with self._changed:
            self._queue.append(work)
            self._changed.notify()

    def cancel(self, keys: set[str], reason: str) -> None:
        """Stop the works of *keys*: what waits is not started, what runs is killed with its process."""
        with self._changed:
            waiting = [work for work in self._queue if work.key in keys]
            for work in waiting:
                self._queue.remove(work)
            for work in self._running.values():
                if work.key in keys:
                    work.cancelled = reason
                    if work.process is not None:
                        work.process.kill()
        for work in waiting:
            work.done(None, reason)

    def close(self) -> None:
        """Kill every process and end every thread."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            for work in self._running.values():
                if work.process is not None:
                    work.process.kill()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        process: subprocess.Popen[bytes] | None = None
        while (work := self._take()) is not None:
            answer: list[bytes] | None = None
            try:
                if process is None or process.poll() is not None:
                    process = self._start()
                answer, reason = self._run(work, process)
            except Exception as error:  # no thread of the pool may end before the pool
                reason = f"no client process could do it: {error!r}"
            with self._changed:
                del self._running[work.node]
                self._changed.notify_all()
            work.done(answer, work.cancelled or reason)
        if process is not None:
            _stop(process)

    def _take(self) -> Work | None:
        with self._changed:
            while not self._closed:
                for work in self._queue:
                    if work.node not in self._running:
                        self._queue.remove(work)
                        self._running[work.node] = work
                        return work
                self._changed.wait()
            return None

    def _run(self, work: Work, process: subprocess.Popen[bytes]) -> tuple[list[bytes] | None, str]:
        with self._changed:
            work.process = process
            if work.cancelled or self._closed:
                process.kill()
        try:
            write_frame(_pipe(process.stdin), *work.frame())
            return read_frame(_pipe(process.stdout)), ""
        except Closed:
            _stop(process)
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return None, f"the client process died: {how}"

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(self._folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )


def _pipe(stream: IO[bytes] | None) -> BinaryIO:
    if stream is None:
        raise Closed
    return cast(BinaryIO, stream)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                # unsent bytes of a pipe that nobody reads any more
                continue
