"""A tool worker that dials in through the real gateway: calls, items, artifacts, and its end."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import httpx
import pytest

from artifact_doors import GUARD_S, Doors, until

pytestmark = pytest.mark.long

TOOLS = """
    from collections.abc import Iterator

    from aegis_agent import Context, tool


    @tool(idempotent=True)
    def far_shout(text: str, context: Context) -> dict[str, str]:
        return {"text": text.upper(), "tenant": context.tenant}


    @tool()
    def far_count(to: int, context: Context) -> Iterator[int]:
        for number in range(to):
            context.progress(number, to)
            yield number


    @tool()
    def far_copy(name: str, context: Context) -> str:
        data = context.read_artifact(name)
        return context.save_artifact(data + data, media_type="application/octet-stream")


    @tool()
    def elsewhere() -> int:
        return 1
"""


@pytest.fixture(scope="module")
def worker(doors: Doors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    source = tmp_path_factory.mktemp("worker") / "far_tools.py"
    source.write_text(textwrap.dedent(TOOLS))
    tls = doors.mesh.tls("tool-worker")
    program = "import sys; from aegis_client.cli.app import run; sys.exit(run(sys.argv[1:]))"
    files = ["--cert", str(tls.cert), "--key", str(tls.key), "--ca", str(tls.bundle)]
    where = ["--address", doors.gateway.settings.machines_listen, "--slots", "2"]
    command = [sys.executable, "-u", "-c", program, "worker", "run", str(source), *where, *files]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with doors.client() as client:
            until(lambda: client.get("/v1/tools/far_shout").status_code == 200)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def http(doors: Doors, worker: subprocess.Popen[str]) -> Iterator[httpx.Client]:
    with doors.client() as client:
        yield client


def payload(**arguments: object) -> dict[str, object]:
    return {"payload": [{"json": arguments}]}


def test_a_call_reaches_the_worker_and_comes_back(http: httpx.Client) -> None:
    answer = http.post("/v1/tools/far_shout:dispatch", json=payload(text="hello"))

    assert 200 == answer.status_code, answer.text
    assert [{"json": {"text": "HELLO", "tenant": "default"}}] == [
        {"json": part["json"]} for part in answer.json()["result"]
    ]


def test_what_the_policy_does_not_allow_is_not_there(http: httpx.Client) -> None:
    assert 404 == http.get("/v1/tools/elsewhere").status_code


def test_another_tenant_does_not_see_the_worker(doors: Doors, worker: subprocess.Popen[str]) -> None:
    with doors.client(tenant="other") as client:
        assert 404 == client.get("/v1/tools/far_shout").status_code


def test_items_and_progress_come_through(http: httpx.Client) -> None:
    events = {"accept": "text/event-stream"}
    answer = http.post("/v1/tools/far_count:dispatchStream", json=payload(to=3), headers=events)
    told = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]

    items = [event["item"]["parts"][0]["json"]["result"] for event in told if "item" in event]
    assert [0, 1, 2] == items
    assert any("progress" in event for event in told)
    assert "result" in told[-1]


def test_a_remote_tool_reads_and_saves_artifacts_of_the_caller(http: httpx.Client) -> None:
    data = b"\1\2\3" * 1000
    stored = http.post("/v1/artifacts", content=data, headers={"content-type": "application/octet-stream"})
    name = f"artifacts/{hashlib.sha256(data).hexdigest()}"
    assert 200 == stored.status_code, stored.text

    answer = http.post("/v1/tools/far_copy:dispatch", json=payload(name=name))
    assert 200 == answer.status_code, answer.text
    saved = answer.json()["result"][0]["text"]
    assert f"artifacts/{hashlib.sha256(data + data).hexdigest()}" == saved


def test_sigterm_takes_the_tools_away_and_ends_the_worker_well(
    http: httpx.Client, worker: subprocess.Popen[str]
) -> None:
    worker.send_signal(signal.SIGTERM)

    assert 0 == worker.wait(GUARD_S)
    told = worker.stdout.read() if worker.stdout else ""
    assert "refused elsewhere: TOOL_NOT_IN_POLICY" in told
    assert "drained" in told
    assert 404 == http.get("/v1/tools/far_shout").status_code
