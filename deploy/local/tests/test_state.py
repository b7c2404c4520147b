"""The state directory: who holds it, and what a dead holder left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aegis_common.errors import ConfigurationError
from aegis_local.errors import AlreadyRunning, NotRunning
from aegis_local.state import StateDir
from aegis_local.supervisor.processes import MARK, marked

HOLD = """
import sys, pathlib, time
from aegis_local.state import StateDir
state = StateDir.at(pathlib.Path(sys.argv[1]))
with state.held():
    state.prepare()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.at(tmp_path / "state")


@pytest.fixture
def holder(state: StateDir) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(state.root)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_stack_on_the_same_state_is_told_who_holds_it(
    state: StateDir, holder: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(AlreadyRunning, match=rf"pid {holder.pid}.*aegis down"), state.held():
        pass


def test_a_dead_holder_holds_nothing(state: StateDir, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()

    assert state.holder() is None
    with state.held():
        assert state.holder() == os.getpid()


def test_processes_and_files_of_a_dead_stack_are_cleaned_up(state: StateDir) -> None:
    state.prepare()
    (state.sockets / "redis-jobs.sock").touch()
    env = {MARK: state.stack}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=env) as stray:
        while not marked(state.stack):
            pass
        with state.held():
            assert stray.wait(10) == -9
            assert not state.run.exists()


@pytest.mark.parametrize(
    "step", [StateDir.prepare, StateDir.prepare_logs, lambda state: state.held().__enter__()]
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, step: Callable[[StateDir], object]) -> None:
    (tmp_path / "file").touch()
    state = StateDir.at(tmp_path / "file" / "state")

    with pytest.raises(ConfigurationError, match=f"{state.root} cannot be used: Not a directory"):
        step(state)


def test_folders_are_private(state: StateDir) -> None:
    state.prepare()

    modes = {path.stat().st_mode & 0o777 for path in (state.root, state.run, state.sockets, state.audit)}
    assert modes == {0o700}


def test_sockets_move_to_a_short_folder_when_the_path_is_too_long(tmp_path: Path) -> None:
    deep = StateDir.at(tmp_path / ("x" * 100))

    deep.prepare()

    assert len(str(deep.sockets / "redis-cache.sock")) < 100
    assert deep.sockets.stat().st_mode & 0o777 == 0o700
    deep.remove_transient()
    assert not deep.sockets.exists()


def test_status_of_a_stack_that_does_not_run_says_how_to_start_one(state: StateDir) -> None:
    with pytest.raises(NotRunning, match="aegis up"):
        state.read_status()


def test_status_of_an_unknown_schema_version_is_refused_by_name(
    state: StateDir, holder: subprocess.Popen[bytes]
) -> None:
    state.status.write_text('{"schema_version": 99}')

    with pytest.raises(ConfigurationError, match="schema version 99"):
        state.read_status()
