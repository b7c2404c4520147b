"""Workers as processes of their own, started as users start them, and what kills and signals do to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.remote.errors import WorkerLost
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.adapters.remote.servicer import WorkerServicer
from aegis_agent.domain.errors import ToolTimeout
from aegis_agent.domain.registry import EVERYONE
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 120.0
TOOLS = """
    import os
    import time
    from pathlib import Path

    from aegis_agent import tool


    def hold(folder: str) -> str:
        Path(folder, str(os.getpid())).touch()
        while not Path(folder, "go").exists():
            time.sleep(0.02)
        return "done"


    @tool(concurrency=2)
    def once(folder: str) -> str:
        return hold(folder)


    @tool(concurrency=2, idempotent=True)
    def again(folder: str) -> str:
        return hold(folder)


    @tool()
    def spin(folder: str) -> None:
        Path(folder, str(os.getpid())).touch()
        while True:
            pass
"""


class Agent:
    """An agent that takes workers, and what is needed to start one."""

    def __init__(self, manager: AgentManager, mesh: Mesh, port: int) -> None:
        self.manager, self.mesh, self.port = manager, mesh, port

    def has(self, tool: str) -> bool:
        return self.manager.registry.owned(tool, owner=EVERYONE) is not None

    def capacity(self, tool: str) -> int:
        found = self.manager.registry.owned(tool, owner=EVERYONE)
        return 0 if found is None else found.admission._slots.capacity


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    folder = tmp_path_factory.mktemp("processes")
    mesh = Mesh(folder)
    worker = mesh.spiffe_id("tool-worker")
    mesh.write_identities({worker: {"tenant": "default", "roles": ["worker"], "via_gateway": True}})
    policy = folder / "policy.json"
    entry = {"tenant": "*", "tools": ["*"]}
    policy.write_text(json.dumps({"schema_version": 1, "workers": {worker: entry}}))
    settings = ServiceSettings(**mesh.service_kwargs("agent"))
    async with AgentManager() as manager:
        servicer = WorkerServicer(
            Fleet(manager.registry), WorkerPolicy(policy), max_message_bytes=settings.max_message_bytes
        )
        add = [(pb_grpc.add_WorkerServiceServicer_to_server, servicer)]
        async with serving(settings, name="agent", add=add) as server:
            yield Agent(manager, mesh, server.port)
            servicer.begin_drain()


StartWorker = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(agent: Agent, tmp_path: Path) -> Iterator[StartWorker]:
    source = tmp_path / "my_remote_tools.py"
    source.write_text(textwrap.dedent(TOOLS))
    tls = agent.mesh.tls("tool-worker")
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        options = {
            "--address": f"127.0.0.1:{agent.port}",
            "--cert": tls.cert,
            "--key": tls.key,
            "--ca": tls.bundle,
            "--server-name": "agent.aegis.aegis.internal",
            "--slots": 2,
            "--name": f"w{len(started)}",
        }
        words = [str(item) for pair in options.items() for item in pair]
        program = "import sys; from aegis_client.cli.app import run; sys.exit(run(sys.argv[1:]))"
        command = [sys.executable, "-u", "-c", program, "worker", "run", str(source), *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def pids(folder: Path) -> list[int]:
    """Return the processes in which a tool has begun."""
    return [int(item.name) for item in folder.iterdir() if item.name.isdecimal()]


async def exited(process: subprocess.Popen[str]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(process.wait), GUARD_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "signs"
    made.mkdir()
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def wait(agent: Agent) -> Callable[[Callable[[], bool]], Any]:
    await until(lambda: not agent.has("once"), timeout_s=GUARD_S)
    return lambda condition: until(condition, timeout_s=GUARD_S)


async def test_sigterm_lets_a_worker_finish_what_runs(
    agent: Agent, start: StartWorker, folder: Path, wait: Any
) -> None:
    process = start()
    await wait(lambda: agent.has("once"))
    call = asyncio.create_task(agent.manager.dispatch("once", {"folder": str(folder)}))
    await wait(lambda: len(pids(folder)) == 1)

    process.send_signal(signal.SIGTERM)
    await wait(lambda: not agent.has("once"))
    assert process.poll() is None
    (folder / "go").touch()
    assert "done" == await call
    assert 0 == await exited(process)
    assert "serving again, once, spin" in (process.stdout.read() if process.stdout else "")


async def test_the_deadline_kills_the_tool_at_the_worker(
    agent: Agent, start: StartWorker, folder: Path, wait: Any, is_alive: Callable[[int], bool]
) -> None:
    start()
    await wait(lambda: agent.has("spin"))

    with pytest.raises(ToolTimeout):
        await agent.manager.dispatch("spin", {"folder": str(folder)}, timeout=2)
    (pid,) = pids(folder)
    await wait(lambda: not is_alive(pid))


@pytest.mark.long
async def test_calls_of_a_killed_worker_go_elsewhere_only_where_that_does_no_harm(
    agent: Agent, start: StartWorker, tmp_path: Path, wait: Any, is_alive: Callable[[int], bool]
) -> None:
    folders = {name: tmp_path / name for name in ("again", "once")}
    for place in folders.values():
        place.mkdir()
    first = start()
    await wait(lambda: agent.has("once"))
    calls = {
        name: asyncio.create_task(agent.manager.dispatch(name, {"folder": str(place)}))
        for name, place in folders.items()
    }
    await wait(lambda: all(pids(place) for place in folders.values()))
    before = [pid for place in folders.values() for pid in pids(place)]
    start()
    await wait(lambda: agent.capacity("once") == 4)

    os.kill(first.pid, signal.SIGKILL)

    with pytest.raises(WorkerLost):
        await calls["once"]
    await wait(lambda: len(pids(folders["again"])) == 2)
    (folders["again"] / "go").touch()
    assert "done" == await calls["again"]
    assert 1 == len(pids(folders["once"]))
    await wait(lambda: not any(is_alive(pid) for pid in before))
