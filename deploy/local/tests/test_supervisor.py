"""The supervisor with small real programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aegis_common.errors import ConfigurationError
from aegis_local.supervisor.child import Backoff, StartFailed, State
from aegis_local.supervisor.processes import marked
from aegis_local.supervisor.spec import NotReady, Probe, ProcessSpec, Step, Unit, start_order
from aegis_local.supervisor.supervisor import Supervisor

QUICK = Backoff(first=0.05, most=0.2, quiet=60)
SLEEP = "import time; time.sleep(600)"
# A program with a grandchild in a session of its own, which survives its parent when nobody looks after it.
WITH_GRANDCHILD = f"""
import subprocess, sys, pathlib, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def program(name: str, code: str, *args: str | Path, **more: object) -> ProcessSpec:
    argv = [sys.executable, "-u", "-c", code, *map(str, args)]
    return ProcessSpec(name=name, argv=argv, **more)  # type: ignore[arg-type]


def file_exists(path: Path) -> Probe:
    async def probe() -> None:
        if not path.exists():
            raise NotReady(f"no {path.name} yet")

    return probe


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def eventually(check: Callable[[], bool], within: float = 20) -> None:
    end = time.monotonic() + within
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.02)


def test_start_order_puts_dependencies_first() -> None:
    units: list[Unit] = [
        program("c", "", depends_on=["b"]),
        program("b", "", depends_on=["a"]),
        program("a", ""),
    ]

    assert [unit.name for unit in start_order(units)] == ["a", "b", "c"]


def test_a_circle_of_dependencies_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="a, b"):
        start_order([program("a", "", depends_on=["b"]), program("b", "", depends_on=["a"])])


async def test_a_unit_starts_only_when_what_it_depends_on_is_ready(tmp_path: Path) -> None:
    made = tmp_path / "made"
    slow = program(
        "slow",
        "import sys, time, pathlib; time.sleep(0.5); pathlib.Path(sys.argv[1]).touch(); time.sleep(600)",
        made,
        ready=file_exists(made),
    )
    seen: list[bool] = []

    async def look() -> None:
        seen.append(made.exists())

    units: list[Unit] = [Step(name="look", action=look, depends_on=["slow"]), slow]
    async with Supervisor(units, stack=str(tmp_path), logs=tmp_path / "logs") as supervisor:
        await supervisor.start()

    assert seen == [True]


async def test_a_process_that_ends_before_it_is_ready_fails_the_start_with_its_last_words(
    tmp_path: Path,
) -> None:
    bad = program(
        "bad", "print('no such colour'); raise SystemExit(2)", ready=file_exists(tmp_path / "never")
    )

    async with Supervisor([bad], stack=str(tmp_path), logs=tmp_path / "logs") as supervisor:
        with pytest.raises(StartFailed, match=r"bad ended with status 2 .*\n.*no such colour"):
            await supervisor.start()


async def test_a_process_that_is_never_ready_fails_the_start_with_the_probes_reason(tmp_path: Path) -> None:
    dull = program("dull", SLEEP, ready=file_exists(tmp_path / "never"), ready_timeout=0.3)

    async with Supervisor([dull], stack=str(tmp_path), logs=tmp_path / "logs") as supervisor:
        with pytest.raises(StartFailed, match=r"not ready within 0\.3 s: no never yet"):
            await supervisor.start()


async def test_a_missing_program_fails_the_start_by_name(tmp_path: Path) -> None:
    spec = ProcessSpec(name="gone", argv=["/nowhere/gone"], ready=file_exists(tmp_path / "never"))

    async with Supervisor([spec], stack=str(tmp_path), logs=tmp_path / "logs") as supervisor:
        with pytest.raises(StartFailed, match="cannot start /nowhere/gone: No such file"):
            await supervisor.start()


async def test_a_crashed_process_is_restarted_and_counted(tmp_path: Path) -> None:
    states: list[State] = []
    units = [program("victim", SLEEP)]
    async with Supervisor(
        units,
        stack=str(tmp_path),
        logs=tmp_path / "logs",
        backoff=QUICK,
        changed=lambda: states.append(supervisor.children["victim"].state),
    ) as supervisor:
        await supervisor.start()
        victim = supervisor.children["victim"]
        first = victim.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: victim.restarts == 1 and victim.state is State.READY)

        assert victim.pid != first
        assert State.BACKING_OFF in states
    log = (tmp_path / "logs" / "victim.log").read_text()
    assert "ended with signal SIGKILL; restart in 0.05 s" in log


def test_the_wait_before_a_restart_doubles_up_to_its_maximum() -> None:
    backoff = Backoff(first=0.5, most=3)

    assert [backoff.delay(n) for n in range(1, 6)] == [0.5, 1, 2, 3, 3]


async def test_stop_kills_a_grandchild_in_its_own_session(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    spec = program("parent", WITH_GRANDCHILD, note, ready=file_exists(note))
    async with Supervisor([spec], stack=str(tmp_path), logs=tmp_path / "logs") as supervisor:
        await supervisor.start()
        await eventually(lambda: note.read_text() != "")
        grandchild = int(note.read_text())
        assert alive(grandchild)

    assert not alive(grandchild)
    assert marked(str(tmp_path)) == set()


async def test_a_process_that_ignores_sigterm_is_killed_after_its_drain(tmp_path: Path) -> None:
    note = tmp_path / "ready"
    code = (
        "import signal, time, pathlib, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    )
    spec = program("deaf", code, note, ready=file_exists(note), drain=0.2)
    async with Supervisor([spec], stack=str(tmp_path), logs=tmp_path / "logs") as supervisor:
        await supervisor.start()
        pid = supervisor.children["deaf"].pid
        assert pid is not None

    assert not alive(pid)
    assert supervisor.children["deaf"].exit_code == -signal.SIGKILL


async def test_log_lines_carry_the_name_and_files_stay_bounded(tmp_path: Path) -> None:
    echoed: list[tuple[str, str]] = []
    code = "import time\nfor i in range(3): print('line', i)\ntime.sleep(600)"
    async with Supervisor(
        [program("talker", code)],
        stack=str(tmp_path),
        logs=tmp_path / "logs",
        echo=lambda name, line: echoed.append((name, line)),
    ) as supervisor:
        await supervisor.start()
        await eventually(lambda: len(echoed) == 3)

    assert echoed == [("talker", f"line {i}") for i in range(3)]
    assert (tmp_path / "logs" / "talker.log").read_text() == "line 0\nline 1\nline 2\n"


HOST = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[2])
import test_supervisor as t
from aegis_local.supervisor.supervisor import Supervisor

async def main(folder):
    spec = t.program("parent", t.WITH_GRANDCHILD, folder / "pid", ready=t.file_exists(folder / "pid"))
    (folder / "sockets").mkdir()
    gone = [folder / "sockets"]
    async with Supervisor([spec], stack=str(folder), logs=folder / "logs", remove_on_death=gone) as s:
        await s.start()
        (folder / "up").touch()
        await asyncio.sleep(600)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def start_host(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HOST, str(folder), str(Path(__file__).parent)])


async def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    host = start_host(tmp_path)
    try:
        await eventually(lambda: (tmp_path / "up").exists() and (tmp_path / "pid").read_text() != "")
        assert len(marked(str(tmp_path), service="parent")) == 2
    finally:
        host.kill()
        host.wait()

    await eventually(lambda: marked(str(tmp_path)) == set())
    await eventually(lambda: not (tmp_path / "sockets").exists())
