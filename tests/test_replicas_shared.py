"""What two replicas have in common: remote workers, tools, artifacts; and what broken streams tell."""

from __future__ import annotations

import asyncio
import queue
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from aegis_agent.adapters.oip import messages
from aegis_client import AegisApiError, NotFound, Unavailable
from oip_support import infer_request
from replica_load import MODEL
from replica_support import GUARD_S, Agent, Replicas, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

FAR_TOOLS = """
    import asyncio
    from pathlib import Path

    from aegis_agent import tool


    @tool(idempotent=True, concurrency=8)
    async def far_shout(text: str) -> str:
        return text.upper()


    @tool(concurrency=8)
    async def far_watched(begun: str, ended: str) -> str:
        Path(begun).touch()
        try:
            await asyncio.sleep(600)
        finally:
            Path(ended).touch()
        return "late"
"""


@contextmanager
def worker(replicas: Replicas, folder: Path, at: Agent | None = None) -> Iterator[None]:
    """Run a worker process that dials the gateway, or one replica, while the block runs."""
    source = folder / "far_tools.py"
    source.write_text(textwrap.dedent(FAR_TOOLS))
    tls, service = replicas.mesh.tls("tool-worker"), "agent" if at else "gateway"
    address = f"127.0.0.1:{at.port}" if at else replicas.gateway.settings.machines_listen
    program = "import sys; from aegis_client.cli.app import run; sys.exit(run(sys.argv[1:]))"
    files = ["--cert", str(tls.cert), "--key", str(tls.key), "--ca", str(tls.bundle)]
    where = ["--address", address, "--server-name", f"{service}.aegis.aegis.internal"]
    command = [sys.executable, "-c", program, "worker", "run", str(source), *where, *files]
    process = subprocess.Popen(command)
    try:
        until(
            lambda: all(has(replicas, agent, "far_shout") for agent in replicas.agents), "both have the tool"
        )
        yield
    finally:
        process.kill()
        process.wait()
        until(lambda: not any(has(replicas, agent, "far_shout") for agent in replicas.agents), "it is gone")


def has(replicas: Replicas, agent: Agent | None, tool: str) -> bool:
    with replicas.client(agent) as client:
        try:
            client.tools.get(tool)
        except NotFound:
            return False
    return True


def works(call: Callable[[], Any]) -> bool:
    try:
        call()
    except AegisApiError:
        return False
    return True


def test_a_worker_that_dials_one_replica_serves_calls_that_arrive_at_both(
    replicas: Replicas, tmp_path: Path
) -> None:
    with worker(replicas, tmp_path, replicas.agents[0]):
        for at in (None, *replicas.agents):
            with replicas.client(at) as client:
                said = [client.tools.run("far_shout", {"text": f"a{number}"}).value for number in range(10)]
                assert [f"A{number}" for number in range(10)] == said
                scopes = {client.tools.get(name).concurrency_scope for name in ("far_shout", "repeatable")}
                assert {"WORKER", "REPLICA"} == scopes


def test_a_worker_comes_back_by_the_other_replica_when_its_own_is_killed(
    replicas: Replicas, tmp_path: Path
) -> None:
    with worker(replicas, tmp_path), replicas.client() as client:
        for victim in replicas.agents:
            with replicas.without(victim):
                until(
                    lambda: works(lambda: client.tools.run("far_shout", {"text": "a"})), "the worker is back"
                )
                said = [client.tools.run("far_shout", {"text": "again"}).value for _ in range(10)]
                assert ["AGAIN"] * 10 == said


def test_a_call_that_its_caller_leaves_at_one_replica_stops_at_the_worker_of_the_other(
    replicas: Replicas, tmp_path: Path
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    with worker(replicas, tmp_path, replicas.agents[0]), replicas.client(replicas.agents[1]) as client:
        events = client.tools.stream("far_watched", {"begun": str(begun), "ended": str(ended)}, timeout=300)
        next(iter(events))
        until(begun.exists, "the tool runs")
        assert not ended.exists()
        events.close()
        until(ended.exists, "the tool stops")


def test_a_tool_added_at_run_time_is_live_at_both(replicas: Replicas) -> None:
    file = replicas.tools / "late.py"
    file.write_text(
        "from aegis_agent import tool\n\n\n@tool()\nasync def late() -> str:\n    return 'late'\n"
    )
    took = until(lambda: all(has(replicas, agent, "late") for agent in replicas.agents), "both have it")
    print(f"tool live on both after {took:.1f} s")
    said = []
    for agent in replicas.agents:
        with replicas.client(agent) as client:
            said.append(client.tools.run("late").value)
    file.unlink()
    until(lambda: not any(has(replicas, agent, "late") for agent in replicas.agents), "both have dropped it")

    assert ["late", "late"] == said


def test_an_artifact_that_one_replica_took_is_given_and_removed_by_the_other(replicas: Replicas) -> None:
    first, second = replicas.agents
    data = np.random.default_rng(7).bytes(3 << 20)
    with replicas.client(first) as here, replicas.client(second) as there:
        artifact = here.artifacts.put(data, media_type="application/octet-stream")
        assert data == there.artifacts.get(artifact.name)
        assert artifact.name in {item.name for item in there.artifacts.list()}
        there.artifacts.delete(artifact.name)
        with pytest.raises(NotFound):
            here.artifacts.get(artifact.name)


@pytest.mark.parametrize("number", [0, 1])
def test_streams_of_inference_begin_anew_when_their_replica_is_killed(
    replicas: Replicas, number: int
) -> None:
    with replicas.channel() as channel:
        streams = [Stream(channel) for _ in range(4)]
        assert [1] * 4 == [stream.ask() for stream in streams]
        with replicas.without(replicas.agents[number]):
            kept = [stream.ask() for stream in streams]
            again = [Stream(channel).ask() for _ in range(10)]
        for stream in streams:
            stream.close()

    assert {1} == set(again)
    assert set(kept) <= {1, None}


class Stream:
    """An open ModelStreamInfer."""

    def __init__(self, channel: grpc.Channel) -> None:
        open_ = channel.stream_stream(
            f"/{messages.SERVICE}/ModelStreamInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers = open_(iter(self._requests.get, None), timeout=GUARD_S)

    def ask(self) -> int | None:
        """Return the number of outputs of one inference; None when the stream is broken."""
        row = np.array([[0, 1, 0, 0]], dtype=np.float32)
        self._requests.put(infer_request(MODEL, "input", row, "FP32"))
        try:
            answer = next(self._answers)
        except grpc.RpcError:
            return None
        return len(answer.infer_response.outputs)

    def close(self) -> None:
        self._requests.put(None)
        self._answers.cancel()


def test_a_stream_of_a_tool_that_broke_says_so_and_the_tool_is_not_run_again(
    replicas: Replicas, tmp_path: Path
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    with replicas.client() as client:
        events = client.tools.stream("watched", {"begun": str(begun), "ended": str(ended)}, timeout=60)
        next(iter(events))
        until(begun.exists, "the tool runs")
        begun.unlink()
        for victim in replicas.agents:
            victim.kill()
        with pytest.raises(Unavailable):
            list(events)
        replicas.agents[0].start()
        replicas.revive(replicas.agents[1])

    assert not begun.exists()


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
def test_a_session_of_mcp_goes_on_at_the_other_replica(replicas: Replicas, mode: str) -> None:
    async def talk() -> list[str]:
        context = ssl.create_default_context(cafile=str(replicas.mesh.ca.bundle))
        headers = {"authorization": f"Bearer {replicas.mesh.token()}"}
        url = f"https://{replicas.gateway.settings.people_listen}/mcp"
        async with httpx2.AsyncClient(verify=context, trust_env=False, headers=headers, timeout=60) as http:
            made: Any = McpClient(streamable_http_client(url, http_client=http), mode=mode, cache=None)
            async with made as session:
                said = [(await session.call_tool("add", {"a": 1})).content[0].text]
                for victim in replicas.agents:
                    await asyncio.to_thread(victim.kill)
                    said += [(await session.call_tool("add", {"a": 1})).content[0].text for _ in range(5)]
                    await asyncio.to_thread(replicas.revive, victim)
                return said

    assert ["2"] * 11 == asyncio.run(talk())
