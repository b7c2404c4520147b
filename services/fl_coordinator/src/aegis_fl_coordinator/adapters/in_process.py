"""The engine of one machine: each run's app is a child of the coordinator, and its nodes are processes."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis_fl_coordinator.domain.errors import EngineNotEnabled
from aegis_fl_coordinator.domain.ports import EngineState, EngineStatus
from aegis_fl_coordinator.domain.run import ConfigValue
from aegis_fl_coordinator.inprocess.launch import STOPPED, failure, launch, stop, worker_count
from aegis_fl_coordinator.runfile import RUN_KEY, RunFile

_ID_BITS: Final = 52
_LOST: Final = EngineStatus(EngineState.LOST, "the coordinator that ran it is gone")


@dataclass(slots=True)
class _Child:
    run_id: str
    process: subprocess.Popen[bytes]


class InProcessEngine:
    """A `RunEngine`. A run ends with the coordinator, and goes on from its checkpoint under the next one.

    Args:
        runs: Folder of the runs' folders, which hold their run files.
        enabled: False refuses every run: an app runs as this process's user, and can read what it can.
    """

    def __init__(self, runs: Path, *, enabled: bool) -> None:
        self._runs = runs
        self._enabled = enabled
        self._children: dict[int, _Child] = {}

    def close(self) -> None:
        """Stop every app; the next coordinator goes on with their runs."""
        for child in self._children.values():
            stop(child.process)

    def check_enabled(self) -> None:
        """Raise unless runs are allowed here.

        Raises:
            EngineNotEnabled: The operator has not allowed it.
        """
        if not self._enabled:
            raise EngineNotEnabled(
                "runs in process are not allowed here, for the app would run as the coordinator's user; an "
                "operator of a development machine sets AEGIS_FL_COORDINATOR_IN_PROCESS=true"
            )

    async def start_run(self, bundle: bytes, config: Mapping[str, ConfigValue]) -> int:
        self.check_enabled()
        run_id = str(config[RUN_KEY])
        folder = self._runs / run_id
        workers = worker_count(len(RunFile.read(folder).nodes))
        process = launch(folder, bundle, config, workers=workers)
        engine_run = secrets.randbits(_ID_BITS)
        self._children[engine_run] = _Child(run_id, process)
        return engine_run

    async def find_run(self, key: str, value: str) -> int | None:
        found = [number for number, child in self._children.items() if child.run_id == value]
        return found[-1] if key == RUN_KEY and found else None

    async def status(self, engine_run: int) -> EngineStatus:
        child = self._children.get(engine_run)
        if child is None:
            return _LOST
        match child.process.poll():
            case None:
                return EngineStatus(EngineState.ACTIVE)
            case 0:
                return EngineStatus(EngineState.COMPLETED)
            case code if code == STOPPED:
                return EngineStatus(EngineState.STOPPED)
            case code if code < 0:
                del self._children[engine_run]
                return EngineStatus(EngineState.LOST, f"its process was killed by signal {-code}")
        return EngineStatus(EngineState.FAILED, failure(self._runs / child.run_id))

    async def stop_run(self, engine_run: int) -> None:
        child = self._children.get(engine_run)
        if child is not None:
            await asyncio.to_thread(stop, child.process)
