"""A deadline or a cancellation reaches the tool through every door, and the work itself ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_client import AegisApiError, Client, DeadlineExceeded
from stack_support import Stack

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


def _pid(file: Path) -> int:
    """Wait until the tool has said which process it runs in."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(file.read_text())
        time.sleep(0.02)
    pytest.fail("the tool has not started")


def _gone(pid: int) -> bool:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_timeout_over_grpc_kills_the_work(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded) as caught:
        client.tools.run("spin", {"pid_file": str(file)}, timeout=1)

    assert "TOOL_TIMEOUT" == caught.value.reason
    assert _gone(_pid(file))


def test_a_timeout_over_http_kills_the_work(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    body = {"payload": [{"json": {"pid_file": str(file)}}], "timeout": "1s"}
    with stack.http(stack.token("operator")) as http:
        answer = http.post("/v1/tools/spin:dispatch", json=body)

    assert (504, "TOOL_TIMEOUT") == (answer.status_code, answer.json()["details"][0]["reason"])
    assert _gone(_pid(file))


def test_a_caller_that_hangs_up_over_http_ends_the_work(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    body = {"payload": [{"json": {"pid_file": str(file)}}], "timeout": "60s"}
    with stack.http(stack.token("operator")) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/tools/spin:dispatch", json=body, timeout=2)

    assert _gone(_pid(file))


def test_a_cancelled_call_ends_the_work(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    payload = part_pb2.Part()
    payload.json.update({"pid_file": str(file)})
    with stack.channel("machines", "sdk") as channel:
        call = pb_grpc.AgentServiceStub(channel).Dispatch.future(
            pb.DispatchRequest(tool="tools/spin", payload=[payload]), timeout=60
        )
        pid = _pid(file)
        call.cancel()

    assert _gone(pid)


def test_a_killed_call_frees_its_slot_at_once(client: Client) -> None:
    """More runaways than the tool has slots, one after the other: none waits for another's end."""
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            client.tools.run("spin", {}, timeout=0.5)

    assert "hi" == client.tools.run("echo", {"text": "hi"}).value


def test_a_tool_that_crashes_fails_its_own_call_only(client: Client) -> None:
    results: list[object] = []
    other = threading.Thread(
        target=lambda: results.append(client.tools.run("detect_language", {"text": "Guten Morgen zusammen"}))
    )
    other.start()
    with pytest.raises(AegisApiError) as caught:
        client.tools.run("crash", {})
    other.join()

    assert "TOOL_CRASHED" == caught.value.reason
    assert 1 == len(results)
    assert grpc.StatusCode.ABORTED.name == caught.value.code
