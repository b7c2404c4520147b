"""Starts a run's app in a process of its own: what the folder must hold, and the command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from aegis_fl_coordinator.domain.errors import UnknownSchema
from aegis_fl_coordinator.domain.run import ConfigValue
from aegis_fl_coordinator.flower import app_environment
from aegis_fl_coordinator.runfile import write_private

SCHEMA_VERSION: Final = 1
APP_FOLDER: Final = "app"
LOCK_FILE: Final = "lock"
FAILURE_FILE: Final = "failure"
LOG_FILE: Final = "serverapp.log"
CLIENT_LOG_FILE: Final = "clients.log"
FLOWER_HOME: Final = "flower"
STOPPED: Final = 3
"""Exit code of an app whose coordinator wanted it to end."""
_ENGINE_FILE: Final = "engine.json"
_MODULE: Final = "aegis_fl_coordinator.inprocess.process"


@dataclass(frozen=True, slots=True)
class EngineFile:
    """What the process is told beside the run file.

    Attributes:
        config: The run config that overrides the app's own.
        workers: Number of client processes. Range: 1 and up.
    """

    config: Mapping[str, ConfigValue]
    workers: int

    def write(self, folder: Path) -> None:
        record = asdict(self) | {"schema_version": SCHEMA_VERSION}
        write_private(folder / _ENGINE_FILE, json.dumps(record, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> EngineFile:
        """Read the file in *folder*.

        Raises:
            UnknownSchema: It is of a schema version that this reader does not know.
        """
        record: dict[str, Any] = json.loads((folder / _ENGINE_FILE).read_bytes())
        version = record.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise UnknownSchema(
                f"{folder / _ENGINE_FILE} has schema version {version}; this reader knows {SCHEMA_VERSION}",
                schema_version=str(version),
            )
        return cls(**record)


def launch(
    folder: Path, bundle: bytes, config: Mapping[str, ConfigValue], *, workers: int
) -> subprocess.Popen[bytes]:
    """Start the app of a run, or go on with it, in a process that ends when this one does.

    Args:
        folder: The run's folder, with its run file.
        bundle: The app as built for Flower.
        config: The run config that overrides the app's own.
        workers: Number of client processes.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        archive.extractall(folder / APP_FOLDER)
    EngineFile(config, workers).write(folder)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    with (folder / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(folder)],
            # It holds the other end of this pipe: when this process is gone, it reads the end and stops.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=app_environment(home=folder / FLOWER_HOME, serverapp_dir=folder.parent),
            # Ctrl-C is for whoever started it, who then stops it in order.
            start_new_session=True,
        )


def failure(folder: Path) -> str:
    """Return why the app of a run failed, as far as it could say."""
    try:
        return (folder / FAILURE_FILE).read_text("utf-8")
    except OSError:
        return f"it left no reason; see {LOG_FILE} in the run's folder"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill an app; its client processes go with it."""
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def worker_count(nodes: int) -> int:
    """Return how many client processes suit *nodes* nodes on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(nodes, cores))
