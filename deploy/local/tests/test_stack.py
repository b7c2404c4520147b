"""The whole stack as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aegis_local.environment import scripts
from aegis_local.supervisor.processes import marked

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
AEGIS = str(scripts() / "aegis")


def aegis(folder: Path, *args: str, check: bool = True) -> str:
    env = {**os.environ, "AEGIS_STATE_DIR": str(folder / "state")}
    done = subprocess.run([AEGIS, *args], env=env, capture_output=True, text=True, timeout=280, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def status(folder: Path) -> dict[str, Any]:
    return dict(json.loads(aegis(folder, "status", "-o", "json")))


def eventually(check: Callable[[], bool], within: float = 60) -> None:
    end = time.monotonic() + within
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    aegis(tmp_path, "up", "--detach", "--port-base", "0", "--nodes", "0")
    try:
        yield tmp_path
    finally:
        aegis(tmp_path, "down")


def test_up_answers_and_down_leaves_nothing(tmp_path: Path) -> None:
    printed = aegis(tmp_path, "up", "--detach", "--port-base", "0", "--nodes", "0")
    state = tmp_path / "state"
    found = status(tmp_path)
    url = f"https://localhost:{found['ports']['people']}"
    token = aegis(tmp_path, "token").strip()
    tools = httpx.get(
        f"{url}/v1/tools",
        headers={"Authorization": f"Bearer {token}"},
        verify=_trust(state),
    )
    said = aegis(tmp_path, "down")

    assert f"{url}/v1/tools" in printed
    assert {tool["name"] for tool in tools.json()["tools"]} >= {"tools/echo", "tools/image_ocr"}
    assert "stopped" in said
    assert marked(str(state)) == set()
    assert not (state / "run").exists()
    assert [path for path in state.rglob("*") if path.is_socket()] == []
    assert (state / "ca" / "ca.crt").exists()
    aegis(tmp_path, "down", "--purge")
    assert not state.exists()


def printed_commands(text: str) -> list[str]:
    """Return the commands that `aegis up` printed, each with its continuation lines."""
    block = text[text.index("  State ") :].split("\n\n")[1].splitlines()
    joined = "\n".join(line.removeprefix("  ") for line in block).strip()
    return re.split(r"\n(?=(?:aegis|curl|buf|grpcurl|python) )", joined)


def test_every_printed_line_works_as_it_stands(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    up = [AEGIS, "up", "--detach", "--port-base", "0", "--nodes", "0", "--state-dir", state]
    printed = subprocess.run(up, capture_output=True, text=True, timeout=280, check=True).stdout
    path = f"{scripts()}:{scripts().parent / 'buf/node_modules/.bin'}:{os.defpath}"
    commands = printed_commands(printed)
    ran = []
    try:
        for command in commands:
            program = command.split()[0]
            if shutil.which(program, path=path):
                strict = re.sub(r"^curl ", "curl --fail-with-body ", command)
                bash = ["bash", "-ec", strict]
                done = subprocess.run(
                    bash,
                    env={"PATH": path, "HOME": state},
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                ran.append((program, done.stdout))
    finally:
        subprocess.run([AEGIS, "down", "--purge", "--state-dir", state], check=True, timeout=120)

    assert len(commands) == 6
    assert {"aegis", "curl", "python"} <= {program for program, _ in ran}
    assert all("echo" in out or "hello" in out for _, out in ran)


def test_a_killed_service_is_restarted_and_answers_again(stack: Path) -> None:
    agent = next(entry for entry in status(stack)["processes"] if entry["name"] == "agent")
    os.kill(agent["pid"], signal.SIGKILL)

    def healthy_again() -> bool:
        record = json.loads(aegis(stack, "status", "-o", "json", check=False))
        entry = next(entry for entry in record["processes"] if entry["name"] == "agent")
        return bool(record["healthy"] and entry["restarts"] == 1)

    eventually(healthy_again)
    profiles = str(stack / "state" / "profiles.toml")
    assert "again" in aegis(stack, "--profile-file", profiles, "tools", "run", "echo", "--arg", "text=again")


def test_two_agents_serve_behind_the_gateway_and_a_killed_one_comes_back(tmp_path: Path) -> None:
    printed = aegis(tmp_path, "up", "--detach", "--port-base", "0", "--nodes", "0", "--agents", "2")
    try:
        names = [entry["name"] for entry in status(tmp_path)["processes"]]
        victim = next(entry for entry in status(tmp_path)["processes"] if entry["name"] == "agent-2")
        os.kill(victim["pid"], signal.SIGKILL)
        profiles = str(tmp_path / "state" / "profiles.toml")
        run = ("--profile-file", profiles, "tools", "run", "echo", "--arg", "text=meanwhile")
        said = [aegis(tmp_path, *run) for _ in range(3)]

        def back() -> bool:
            record = json.loads(aegis(tmp_path, "status", "-o", "json", check=False))
            again = next(entry for entry in record["processes"] if entry["name"] == "agent-2")
            return bool(record["healthy"] and again["restarts"] == 1)

        eventually(back)
        lines = aegis(tmp_path, "logs", "agent-2", "-n", "100000")
    finally:
        stopped = aegis(tmp_path, "down")

    assert "2 agents" in printed
    assert {"agent", "agent-2"} <= set(names)
    assert all("meanwhile" in text for text in said)
    assert 2 == lines.count('"event": "serving"')
    assert "stopped" in stopped
    assert marked(str(tmp_path / "state")) == set()
    for folder in ("agent", "agent-2"):
        assert list((tmp_path / "state" / "audit" / folder).glob(f"agent-{folder}-*.jsonl"))


def test_nothing_outlives_a_killed_aegis_up(tmp_path: Path) -> None:
    aegis(tmp_path, "up", "--detach", "--port-base", "0", "--nodes", "0")
    state = tmp_path / "state"
    holder = int((state / "lock").read_text())

    os.kill(holder, signal.SIGKILL)

    eventually(lambda: marked(str(state)) == set())
    eventually(lambda: not (state / "run").exists())
    eventually(lambda: not (state / "profiles.toml").exists())
    assert "no stack is running" in aegis(tmp_path, "status", check=False)


def test_a_second_up_on_the_same_state_is_refused(stack: Path) -> None:
    said = aegis(stack, "up", "--port-base", "0", "--nodes", "0", check=False)

    assert "running on" in said
    assert "aegis down" in said


def test_a_second_stack_runs_beside_the_first(stack: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    aegis(other, "up", "--detach", "--port-base", "0", "--nodes", "0")
    try:
        assert status(other)["healthy"]
        assert status(stack)["healthy"]
    finally:
        aegis(other, "down", "--purge")


def test_sigint_during_start_stops_everything(tmp_path: Path) -> None:
    state = tmp_path / "state"
    argv = [AEGIS, "up", "--port-base", "0", "--nodes", "0", "--state-dir", str(state)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "is ready" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest

    assert "stopped" in rest
    assert marked(str(state)) == set()


def run_module(name: str) -> str:
    argv = [sys.executable, "-m", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_holds() -> None:
    assert "Every check held" in run_module("aegis_local.quickstart")


@pytest.mark.training
def test_the_demo_holds() -> None:
    pytest.importorskip("torch")

    assert "Every check held" in run_module("aegis_local.demo")


def _trust(state: Path) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(state / "ca" / "bundle.crt"))
