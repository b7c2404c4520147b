"""What happens when parts die, certificates change under calls, or the stack itself is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from aegis_client import AegisApiError, Client
from aegis_common.pki import DevCa, server_dns
from stack_support import Stack, run_aegis, start_stack, stop_stack

pytestmark = pytest.mark.long
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start_stack(tmp_path_factory.mktemp("faults") / "state", nodes=0)
    yield running
    stop_stack(running)


def _until(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {PATIENCE_S:.0f} s")


def _works(client: Client) -> bool:
    try:
        client.carbon.check()
        client.tools.run("echo", {"text": "hi"})
    except AegisApiError:
        return False
    return True


def _processes(stack: Stack) -> list[psutil.Process]:
    """Everything that carries the stack's mark, in its environment or its command line."""
    mark = str(stack.state)
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and mark in " ".join(
                [*process.cmdline(), *process.environ().values()]
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("name", ["carbon", "agent", "fl-coordinator", "gateway"])
def test_a_killed_process_is_started_again_and_serves(stack: Stack, name: str) -> None:
    before = stack.process(name)["pid"]
    os.kill(before, signal.SIGKILL)

    _until(lambda: stack.process(name)["pid"] not in {None, before}, f"{name} is started again")
    with stack.client() as client:
        _until(lambda: _works(client), f"calls work after {name} was killed")


def test_a_killed_service_does_not_take_the_others_with_it(stack: Stack) -> None:
    with stack.client() as client:
        _until(lambda: _works(client), "calls work")
        os.kill(stack.process("carbon")["pid"], signal.SIGKILL)

        assert "hi" == client.tools.run("echo", {"text": "hi"}).value
        _until(lambda: _works(client), "carbon is back")


def test_certificates_change_under_calls_and_none_fails(stack: Stack) -> None:
    """Every server certificate is issued anew, several times, while calls run on old and new connections."""
    failures: list[str] = []
    calls = [0, 0]
    done = threading.Event()

    def keep_calling(slot: int, *, fresh: bool) -> None:
        client = stack.client()
        while not done.is_set():
            if fresh:
                client.close()
                client = stack.client()
            try:
                client.tools.run("echo", {"text": "hi"})
                client.carbon.check()
            except AegisApiError as error:
                failures.append(f"{error.code} {error.message}")
            calls[slot] += 2
        client.close()

    threads = [
        threading.Thread(target=keep_calling, args=(slot,), kwargs={"fresh": bool(slot)}) for slot in range(2)
    ]
    for thread in threads:
        thread.start()
    ca = DevCa.load_or_create(stack.state / "ca")
    for _ in range(3):
        for account in ("gateway", "agent", "carbon", "fl-coordinator"):
            local = account == "gateway"
            names = [server_dns(account, "aegis"), *(["localhost"] if local else [])]
            ca.issue(account, dns=names, ips=["127.0.0.1"] if local else [])
            time.sleep(0.7)
    done.set()
    for thread in threads:
        thread.join()

    print(f"calls under rotation: {sum(calls)}, failed: {len(failures)}")
    assert min(calls) > 0
    assert [] == failures


def test_down_leaves_nothing_behind(tmp_path: Path) -> None:
    stack = start_stack(tmp_path / "state", nodes=0)
    sockets = Path(stack.status()["sockets"]) if "sockets" in stack.status() else stack.state / "run"
    stop_stack(stack)

    assert [] == _processes(stack)
    assert not sockets.exists()
    assert [] == [path for path in stack.state.rglob("*") if path.is_socket()]


def test_a_killed_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    stack = start_stack(tmp_path / "state", nodes=0)
    os.kill(int((stack.state / "lock").read_text()), signal.SIGKILL)

    _until(lambda: not _processes(stack), "every process of the stack has ended")
    again = start_stack(tmp_path / "state", nodes=0)
    with again.client() as client:
        assert _works(client)
    stop_stack(again)


def test_a_second_stack_on_the_same_state_is_refused_by_name(stack: Stack) -> None:
    done = run_aegis("up", "--detach", "--port-base", "0", "--state-dir", str(stack.state))

    assert 0 != done.returncode
    assert str(stack.state) in done.stderr + done.stdout
