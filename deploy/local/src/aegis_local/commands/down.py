"""`aegis down`: stop the stack, and with `--purge` forget it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from aegis_common.errors import ConfigurationError
from aegis_local.commands.options import StateDirOption
from aegis_local.state import DEFAULT_DIR, StateDir
from aegis_local.supervisor.processes import kill_stack

app = typer.Typer(add_completion=False)
_STOP_WITHIN_S: Final = 60.0


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove CA, models, runs, logs.")] = False,
    state_dir: StateDirOption = DEFAULT_DIR,
) -> None:
    """Stop the stack; without one, clean up what a killed one left."""
    state = StateDir.at(state_dir)
    if not state.root.exists():
        typer.echo(f"nothing to stop: there is no {state.root}")
        return
    holder = stop_stack(state)
    if purge:
        purge_state(state)
    done = f"stopped (pid {holder})" if holder else "no stack was running"
    typer.echo(f"{done}; state in {state.root} " + ("removed" if purge else "kept"))


def stop_stack(state: StateDir) -> int | None:
    """Stop the stack, or kill it when it does not end in time; return its process, or None."""
    holder = state.holder()
    if holder is not None:
        _signal(holder, signal.SIGTERM)
        end = time.monotonic() + _STOP_WITHIN_S
        # The lock is free a moment before the process has ended; both have to be gone.
        while state.holder() is not None or _alive(holder):
            if time.monotonic() > end:
                _signal(holder, signal.SIGKILL)
            time.sleep(0.1)
    kill_stack(state.stack)
    state.remove_transient()
    return holder


def _alive(pid: int) -> bool:
    """Say whether the process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def purge_state(state: StateDir) -> None:
    """Remove a state directory.

    Raises:
        ConfigurationError: The folder holds no state of ours.
    """
    if not state.lock.exists():
        raise ConfigurationError(
            f"{state.root} holds no state of `aegis up`; it is not removed", path=str(state.root)
        )
    shutil.rmtree(Path(state.root))


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
