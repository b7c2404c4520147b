"""The process of a run in process: an app's server part over a grid of virtual nodes."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, RecordDict

from aegis_fl_coordinator.adapters.flower_control import app_config
from aegis_fl_coordinator.flower import app_environment
from aegis_fl_coordinator.inprocess.flower import RUN, SERVER_NODE, identify, load_app
from aegis_fl_coordinator.inprocess.grid import PoolGrid
from aegis_fl_coordinator.inprocess.launch import (
    APP_FOLDER,
    CLIENT_LOG_FILE,
    FAILURE_FILE,
    FLOWER_HOME,
    LOCK_FILE,
    STOPPED,
    EngineFile,
)
from aegis_fl_coordinator.inprocess.pool import Pool
from aegis_fl_coordinator.runfile import RunFile, write_private
from aegis_fl_coordinator.serverapp.link import RunStopped

_FAILED: Final = 1
_REASON_CHARS: Final = 500


def main() -> None:
    """Run the app of the run folder given as the only argument."""
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    threading.Thread(target=_end_with_engine, daemon=True).start()
    # A process of this run that was started before may live for a moment longer.
    with (folder / LOCK_FILE).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sys.exit(_run(folder))


def _run(folder: Path) -> int:
    try:
        _train(folder)
    except RunStopped as error:
        print(f"stopped: {error}", file=sys.stderr)  # noqa: T201  # the run's own log
        return STOPPED
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        write_private(folder / FAILURE_FILE, reason[:_REASON_CHARS].encode())
        return _FAILED
    return 0


def _train(folder: Path) -> None:
    run, engine, app_folder = RunFile.read(folder), EngineFile.read(folder), folder / APP_FOLDER
    config: dict[str, Any] = {**app_config(app_folder), **engine.config}
    identify()
    app = load_app(app_folder, "serverapp")
    pool = Pool(
        app_folder,
        size=engine.workers,
        log=folder / CLIENT_LOG_FILE,
        environment=app_environment(home=folder / FLOWER_HOME, serverapp_dir=folder.parent),
    )
    try:
        grid = PoolGrid(pool, nodes=len(run.nodes), run_config=config, seed=run.seed)
        app(grid, Context(RUN, SERVER_NODE, {}, RecordDict(), config))
    finally:
        pool.close()


def _end_with_engine() -> None:
    # Not through sys.stdin: its lock would be in the way when the interpreter ends.
    while os.read(0, 1):
        continue
    # At once, whatever the app is doing; the client processes die with the threads that started them.
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
