"""Remote workers over mutual TLS: what they may bring, and what becomes of one that breaks the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from services.agent.tests.remote_agent import (
    GUARD_S,
    Agent,
    StartWorker,
    add,
    agent_of,
    mirror,
    numbers,
    without_workers,
    worker_mesh,
    workers,
)

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.remote import specs
from aegis_agent.adapters.remote.errors import WorkerLost
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import InvalidToolOutput, UnknownTool
from aegis_common.errors import AegisError
from aegis_common.rpc.errors import details_of
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return worker_mesh(tmp_path_factory.mktemp("workers"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_agent(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    async with agent_of(mesh, tmp_path_factory.mktemp("agent")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def agent(shared_agent: Agent) -> Agent:
    return await without_workers(shared_agent)


@pytest_asyncio.fixture(loop_scope="module")
async def start() -> AsyncIterator[StartWorker]:
    async with workers() as begin:
        yield begin


async def test_a_worker_brings_its_tools_and_takes_them_with_it(agent: Agent, start: StartWorker) -> None:
    worker = await start(agent, add, mirror)

    assert 5 == await agent.call("add", {"a": 2, "b": 3})
    mirrored = await agent.call("mirror", {"data": b"\0\1"}, tenant="acme")
    assert {"data": b"\0\1", "tenant": "acme", "big": 2**60} == mirrored

    await worker.lose()
    await until(lambda: not agent.has("add"))
    with pytest.raises(UnknownTool):
        await agent.call("add", {"a": 2, "b": 3})


async def test_a_tool_outside_the_policy_is_refused_by_name(agent: Agent, start: StartWorker) -> None:
    agent.allow({"tool-worker": {"tenant": "*", "tools": ["ad*"]}})
    worker = await start(agent, add, mirror)

    assert 5 == await agent.call("add", {"a": 2, "b": 3})
    assert not agent.has("mirror")
    assert any("refused mirror: TOOL_NOT_IN_POLICY" in line and "ad*" in line for line in worker.told)


async def test_a_worker_that_the_policy_does_not_name_is_told_so(agent: Agent, start: StartWorker) -> None:
    worker = await start(agent, add, account="tool-worker-2")

    with pytest.raises(AegisError) as caught:
        await worker.task
    assert "WORKER_NOT_ALLOWED" == caught.value.reason


async def test_a_certificate_without_the_role_gets_no_stream(agent: Agent, start: StartWorker) -> None:
    agent.allow({"sdk": {"tenant": "*", "tools": ["*"]}})
    worker = await start(agent, add, account="sdk")

    with pytest.raises(AegisError) as caught:
        await worker.task
    assert "ROLE_MISSING" == caught.value.reason


async def test_a_tenants_worker_serves_that_tenant_alone(agent: Agent, start: StartWorker) -> None:
    agent.allow({"tool-worker": {"tenant": "acme", "tools": ["*"]}})
    await start(agent, add, tenants=["other"])

    assert 5 == await agent.call("add", {"a": 2, "b": 3}, tenant="acme")
    with pytest.raises(UnknownTool):
        await agent.call("add", {"a": 2, "b": 3}, tenant="other")


async def test_a_worker_cannot_take_the_name_of_a_tool_of_the_agent(agent: Agent, start: StartWorker) -> None:
    async def add_here(a: int, b: int) -> str:
        return "here"

    agent.manager.register_tool("add", add_here)
    worker = await start(agent, add, mirror)

    assert "here" == await agent.call("add", {"a": 2, "b": 3})
    assert any("refused add: TOOL_NAME_TAKEN" in line for line in worker.told)


class Garbage:
    """A peer with a worker's certificate that speaks the protocol by hand."""

    def __init__(self, agent: Agent) -> None:
        self._channel = agent.mesh.channel(agent.port, "agent", account="tool-worker")
        self._call: Any = pb_grpc.WorkerServiceStub(self._channel).Connect()

    async def __aenter__(self) -> Garbage:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close(None)

    async def send(self, **message: Any) -> None:
        await self._call.write(pb.ConnectRequest(**message))

    async def read(self) -> Any:
        async with asyncio.timeout(GUARD_S):
            return await self._call.read()

    async def join(self, *functions: Any) -> pb.WorkerWelcome:
        async with AgentManager() as manager:
            made = [manager.register_tool(item.__name__, item, concurrency=8) for item in functions]
            hello = pb.WorkerHello(worker="g", slots=4, tools=[specs.to_message(spec) for spec in made])
        await self.send(hello=hello)
        welcome: pb.WorkerWelcome = (await self.read()).welcome
        return welcome

    async def refusal(self) -> str:
        """Read to the end; return the reason."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await self.read() is not grpc.aio.EOF:
                pass
        return details_of(caught.value).reason


@pytest.mark.parametrize(
    "message",
    [
        {"heartbeat": pb.WorkerHeartbeat()},
        {},
        {"hello": pb.WorkerHello(worker="g", slots=4)},
    ],
)
async def test_a_stream_that_does_not_begin_with_hello_is_refused(agent: Agent, message: Any) -> None:
    async with Garbage(agent) as peer:
        await peer.send(**message)

        assert "WORKER_PROTOCOL" == await peer.refusal()
    assert 0 == agent.fleet.workers


async def test_a_hello_that_breaks_the_rules_of_the_proto_is_refused(agent: Agent) -> None:
    async with Garbage(agent) as peer:
        await peer.send(hello=pb.WorkerHello(worker="../g", slots=100000))

        assert "INVALID_REQUEST" == await peer.refusal()


async def test_a_session_of_somebody_else_cannot_be_taken_over(agent: Agent, start: StartWorker) -> None:
    await start(agent, add)
    (session,) = agent.fleet._sessions
    other = agent.mesh.channel(agent.port, "agent", account="tool-worker-2")
    agent.allow({name: {"tenant": "*", "tools": ["*"]} for name in ("tool-worker", "tool-worker-2")})
    call: Any = pb_grpc.WorkerServiceStub(other).Connect()
    await call.write(pb.ConnectRequest(hello=pb.WorkerHello(worker="g", slots=1, resume=session)))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert "WORKER_SESSION_GONE" == details_of(caught.value).reason
    assert 5 == await agent.call("add", {"a": 2, "b": 3})
    await other.close(None)


async def test_a_result_that_breaks_the_schema_is_that_calls_error(agent: Agent) -> None:
    async with Garbage(agent) as peer:
        await peer.join(add)
        for value in ('"text"', "{", "[" * 5000, "NaN"):
            call = asyncio.create_task(agent.call("add", {"a": 2, "b": 3}))
            given = (await _next_call(peer)).call
            await peer.send(result=pb.WorkerResult(call=given, value=pb.WorkerValue(json=value)))
            with pytest.raises(InvalidToolOutput):
                await call
        assert 1 == agent.fleet.workers


async def test_asks_beyond_the_window_end_the_session(agent: Agent) -> None:
    async with Garbage(agent) as peer:
        welcome = await peer.join(numbers)
        stuck = asyncio.Event()

        async def read(event: Any) -> None:
            await stuck.wait()

        action = Action("numbers", {"to": 1})
        dispatch = agent.manager.dispatcher.dispatch(action, caller=Caller(), sink=read, collect=False)
        call = asyncio.create_task(dispatch)
        given = (await _next_call(peer)).call
        for number in range(1, welcome.window + 2):
            chunk = pb.WorkerValue(json="1")
            await peer.send(ask=pb.WorkerAsk(call=given, number=number, chunk=chunk))

        assert "WORKER_PROTOCOL" == await peer.refusal()
        stuck.set()
        with pytest.raises(WorkerLost):
            await call


async def test_messages_about_calls_of_others_are_of_no_effect(agent: Agent) -> None:
    async with Garbage(agent) as peer:
        await peer.join(add)
        await peer.send(result=pb.WorkerResult(call="77", value=pb.WorkerValue(json="1")))
        call = asyncio.create_task(agent.call("add", {"a": 2, "b": 3}))
        given = (await _next_call(peer)).call
        for answer in ("5", "6"):
            await peer.send(result=pb.WorkerResult(call=given, value=pb.WorkerValue(json=answer)))

        assert 5 == await call


async def test_a_worker_that_is_silent_is_lost(agent: Agent) -> None:
    async with Garbage(agent) as peer:
        await peer.join(add)
        call = asyncio.create_task(agent.call("add", {"a": 2, "b": 3}))

        with pytest.raises(WorkerLost):
            await call
        assert "WORKER_LOST" == await peer.refusal()
    assert not agent.has("add")


async def _next_call(peer: Garbage) -> pb.WorkerCall:
    while True:
        message = await peer.read()
        if message.HasField("call"):
            call: pb.WorkerCall = message.call
            return call
