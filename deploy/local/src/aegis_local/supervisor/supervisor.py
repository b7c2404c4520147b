"""Runs all units of a stack: starts in order, stops in reverse, keeps a guard for its own sudden death."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aegis_local.supervisor.child import Backoff, Child, log_path
from aegis_local.supervisor.logs import LogSink
from aegis_local.supervisor.processes import MARK, SERVICE, kill_stack, zombie_children
from aegis_local.supervisor.spec import ProcessSpec, Step, Unit, start_order

_PR_SET_CHILD_SUBREAPER: Final = 36
_REAP_EVERY_S: Final = 1.0


class Supervisor:
    """The units of one stack; use as `async with`, which starts nothing by itself and stops everything.

    Args:
        units: Processes and steps.
        stack: Value of the mark that every process carries; unique on the machine, the state directory.
        logs: Folder of the log files.
        echo: Gets each log line with the name of its process, or None.
        changed: Called after each change of a process's state.
        remove_on_death: Folders and files that the guard removes when the supervisor is killed.
        backoff: Wait before restarts.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        *,
        stack: str,
        logs: Path,
        echo: Callable[[str, str], None] | None = None,
        changed: Callable[[], None] = lambda: None,
        remove_on_death: Sequence[Path] = (),
        backoff: Backoff | None = None,
    ) -> None:
        self._units = start_order(units)
        self._stack = stack
        self._paths = [str(path) for path in remove_on_death]
        self._guard: subprocess.Popen[bytes] | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._stop_lock = asyncio.Lock()
        self._zombies_before: set[int] = set()
        logs.mkdir(parents=True, exist_ok=True)
        self._sinks = {
            spec.name: LogSink(spec.name, log_path(logs, spec.name), echo=echo) for spec in self._specs()
        }
        self.children = {
            spec.name: Child(
                spec,
                stack=stack,
                sink=self._sinks[spec.name],
                backoff=backoff or Backoff(),
                changed=changed,
            )
            for spec in self._specs()
        }

    async def __aenter__(self) -> Self:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._start_guard()
        self._reaper = asyncio.create_task(self._reap_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every unit as soon as what it depends on is ready.

        Raises:
            StartFailed: A process did not come up; the others are still running.
        """
        done = {unit.name: asyncio.Event() for unit in self._units}

        async def bring_up(unit: Unit) -> None:
            for name in unit.depends_on:
                await done[name].wait()
            if isinstance(unit, Step):
                await unit.action()
            else:
                await self.children[unit.name].start()
            done[unit.name].set()

        tasks = [asyncio.create_task(bring_up(unit)) for unit in self._units]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Stop every process, those that others depend on last, and kill what is left. Idempotent."""
        async with self._stop_lock:
            await self._stop_children()
            if self._reaper is not None:
                self._reaper.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._reaper
                self._reaper = None
            self._end_guard()
            await asyncio.to_thread(kill_stack, self._stack)
            self._reap()
            self._reap()
            for sink in self._sinks.values():
                sink.close()

    async def _stop_children(self) -> None:
        users: dict[str, list[str]] = {unit.name: [] for unit in self._units}
        for unit in self._units:
            for name in unit.depends_on:
                users[name].append(unit.name)
        stopped = {unit.name: asyncio.Event() for unit in self._units}

        async def take_down(unit: Unit) -> None:
            for name in users[unit.name]:
                await stopped[name].wait()
            try:
                if isinstance(unit, ProcessSpec):
                    await self.children[unit.name].stop()
            finally:
                stopped[unit.name].set()

        await asyncio.gather(*(take_down(unit) for unit in self._units))

    def _specs(self) -> list[ProcessSpec]:
        return [unit for unit in self._units if isinstance(unit, ProcessSpec)]

    def _start_guard(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "aegis_local.supervisor.guard", self._stack, *self._paths],
            # Marked too: whoever takes over the state directory ends the guard of its dead owner first.
            env={"PATH": os.defpath, MARK: self._stack, SERVICE: "guard"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _end_guard(self) -> None:
        if self._guard is None or self._guard.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(b".")
            self._guard.stdin.close()
        self._guard.wait()
        self._guard = None

    async def _reap_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_REAP_EVERY_S)
            self._reap()
            if self._guard is not None and self._guard.poll() is not None:
                self._start_guard()

    def _reap(self) -> None:
        """Collect orphans that ended here: the subreaper must, and nobody else knows them."""
        own = {child.pid for child in self.children.values()}
        own.add(self._guard.pid if self._guard else None)
        zombies = zombie_children() - own
        # A second look: whoever started a process himself in this interpreter has collected it by then.
        for pid in zombies & self._zombies_before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._zombies_before = zombies
