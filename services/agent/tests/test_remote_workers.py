"""Remote workers over mutual TLS: what they bring, how calls reach them, and what becomes of calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.remote import specs
from aegis_agent.adapters.remote.dialer import Dialer
from aegis_agent.adapters.remote.errors import NoWorker, WorkerLost
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.adapters.remote.servicer import STREAM_LIFE, WorkerServicer
from aegis_agent.adapters.remote.worker import RemoteWorker, WorkerOptions
from aegis_agent.context import AsyncContext
from aegis_agent.domain.call import Caller, Chunk
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import InvalidToolOutput, ToolFailed, ToolTimeout, UnknownTool
from aegis_agent.domain.registry import EVERYONE
from aegis_common.errors import AegisError
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
HEARTBEAT = timedelta(seconds=0.3)


class Seen:
    """What the tools of this module did."""

    def __init__(self) -> None:
        self.begun = 0
        self.running = 0
        self.most = 0
        self.stopped = 0
        self.yielded = 0
        self.attempts: list[int] = []
        self.go = asyncio.Event()


seen = Seen()


@pytest.fixture(autouse=True)
def fresh() -> None:
    global seen
    seen = Seen()


async def add(a: int, b: int) -> int:
    return a + b


async def mirror(data: bytes, context: AsyncContext) -> dict[str, Any]:
    return {"data": data, "tenant": context.tenant, "big": 2**60}


async def wait(context: AsyncContext) -> str:
    """Waits until it is told to go on."""
    seen.begun += 1
    seen.running += 1
    seen.most = max(seen.most, seen.running)
    seen.attempts.append(context.attempt)
    try:
        await seen.go.wait()
    except asyncio.CancelledError:
        seen.stopped += 1
        raise
    finally:
        seen.running -= 1
    return "done"


async def numbers(to: int, context: AsyncContext) -> AsyncIterator[int]:
    for number in range(to):
        await context.progress(number, to)
        seen.yielded += 1
        yield number


async def fail() -> str:
    raise ValueError("no")


class Agent:
    """An agent that takes workers."""

    def __init__(self, manager: AgentManager, fleet: Fleet, mesh: Mesh, port: int, policy: Path) -> None:
        self.manager, self.fleet, self.mesh, self.port, self.policy = manager, fleet, mesh, port, policy

    def allow(self, entries: dict[str, dict[str, Any]]) -> None:
        workers = {self.mesh.spiffe_id(account): entry for account, entry in entries.items()}
        self.policy.write_text(json.dumps({"schema_version": 1, "workers": workers}))

    def dialer(self, account: str = "tool-worker") -> Dialer:
        tls = self.mesh.tls(account)
        return Dialer(
            address=f"127.0.0.1:{self.port}",
            cert=tls.cert,
            key=tls.key,
            ca=tls.bundle,
            server_name="agent.aegis.aegis.internal",
        )

    def has(self, tool: str, owner: str = EVERYONE) -> bool:
        return self.manager.registry.owned(tool, owner=owner) is not None

    async def call(self, tool: str, payload: dict[str, Any] | None = None, *, tenant: str = "default") -> Any:
        async with asyncio.timeout(GUARD_S):
            return await self.manager.dispatch(tool, payload or {}, tenant=tenant)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    made = Mesh(tmp_path_factory.mktemp("workers"))
    entry = {"tenant": "default", "roles": ["worker"], "via_gateway": True}
    made.write_identities({made.spiffe_id(name): entry for name in ("tool-worker", "tool-worker-2")})
    return made


StartAgent = Callable[..., Any]


@asynccontextmanager
async def agent_of(mesh: Mesh, folder: Path, *, life: timedelta = STREAM_LIFE) -> AsyncIterator[Agent]:
    settings = ServiceSettings(**mesh.service_kwargs("agent"), drain=timedelta(seconds=1))
    policy = folder / "policy.json"
    policy.write_text('{"schema_version": 1, "workers": {}}')
    async with AgentManager() as manager:
        fleet = Fleet(manager.registry, heartbeat=HEARTBEAT)
        servicer = WorkerServicer(
            fleet,
            WorkerPolicy(policy),
            max_message_bytes=settings.max_message_bytes,
            stream_life=life,
            within=timedelta(seconds=20),
        )
        add_it = [(pb_grpc.add_WorkerServiceServicer_to_server, servicer)]
        async with serving(settings, name="agent", add=add_it) as server:
            agent = Agent(manager, fleet, mesh, server.port, policy)
            yield agent
            servicer.begin_drain()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_agent(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    async with agent_of(mesh, tmp_path_factory.mktemp("agent")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def agent(shared_agent: Agent) -> Agent:
    """An agent without workers and tools, that lets `tool-worker` bring whatever it likes."""
    await until(lambda: not shared_agent.fleet.workers)
    for registration in shared_agent.manager.registry.everything():
        await shared_agent.manager.remove_tool(registration.tool.spec.name)
    shared_agent.allow({"tool-worker": {"tenant": "*", "tools": ["*"]}})
    return shared_agent


class Running:
    """A worker in this process."""

    def __init__(self, worker: RemoteWorker, task: asyncio.Task[None], told: list[str]) -> None:
        self.worker, self.task, self.told = worker, task, told

    async def lose(self) -> None:
        """End it as a crash does: without a word."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


StartWorker = Callable[..., Awaitable[Running]]


@pytest_asyncio.fixture(loop_scope="module")
async def start() -> AsyncIterator[StartWorker]:
    stack: list[tuple[Running, AgentManager]] = []

    async def begin(
        agent: Agent, *functions: Any, slots: int = 4, account: str = "tool-worker", **options: Any
    ) -> Running:
        manager, told = AgentManager(), list[str]()
        for function in functions:
            manager.register_tool(function.__name__, function, **options)
        worker = RemoteWorker(
            manager.registry,
            agent.dialer(account),
            WorkerOptions(name=f"w{len(stack)}", slots=slots),
            told.append,
        )
        running = Running(worker, asyncio.create_task(worker.run()), told)
        stack.append((running, manager))
        await until(lambda: running.task.done() or any(line.startswith("serving") for line in told))
        return running

    yield begin
    for running, manager in stack:
        await running.lose()
        await manager.close()


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


async def test_cancelling_a_call_stops_it_at_the_worker(agent: Agent, start: StartWorker) -> None:
    await start(agent, wait)
    call = asyncio.create_task(agent.call("wait"))
    await until(lambda: seen.begun == 1)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert 1 == seen.stopped


async def test_the_deadline_stops_the_work_at_the_worker(agent: Agent, start: StartWorker) -> None:
    await start(agent, wait)

    with pytest.raises(ToolTimeout) as caught:
        await agent.manager.dispatch("wait", {}, timeout=0.3)
    await until(lambda: seen.stopped == 1)
    assert "run" == caught.value.metadata["phase"]


async def test_what_a_tool_raises_reaches_the_caller(agent: Agent, start: StartWorker) -> None:
    await start(agent, fail)

    with pytest.raises(ToolFailed, match="ValueError: no"):
        await agent.call("fail")


async def test_a_worker_never_has_more_calls_than_slots(agent: Agent, start: StartWorker) -> None:
    await start(agent, wait, slots=2, concurrency=8)
    calls = [asyncio.create_task(agent.call("wait")) for _ in range(6)]
    await until(lambda: seen.begun == 2)
    await asyncio.sleep(0.1)

    assert 2 == seen.most
    seen.go.set()
    assert ["done"] * 6 == await asyncio.gather(*calls)
    assert 2 == seen.most


async def test_slots_count_for_all_tools_of_a_worker_together(agent: Agent, start: StartWorker) -> None:
    async def wait_too(context: AsyncContext) -> str:
        return await wait(context)

    await start(agent, wait, wait_too, slots=1)
    calls = [asyncio.create_task(agent.call(name)) for name in ("wait", "wait_too")]
    await until(lambda: seen.begun == 1)
    await asyncio.sleep(0.1)

    seen.go.set()
    assert ["done", "done"] == await asyncio.gather(*calls)
    assert 1 == seen.most


async def test_calls_spread_over_workers_with_the_same_tool(agent: Agent, start: StartWorker) -> None:
    first = await start(agent, wait, slots=2)
    await start(agent, wait, slots=2)
    calls = [asyncio.create_task(agent.call("wait")) for _ in range(4)]
    await until(lambda: seen.begun == 4)

    busy = [session.busy for session in agent.fleet._sessions.values()]
    seen.go.set()
    await asyncio.gather(*calls)
    assert [2, 2] == busy
    assert not first.task.done()


async def test_the_newest_version_serves_new_calls_until_it_leaves(agent: Agent, start: StartWorker) -> None:
    await start(agent, add, version="1")
    newer = await start(agent, add, version="2")
    registry = agent.manager.registry
    versions = [registry.tools(caller=Caller())[0].spec.version]

    await newer.lose()
    await until(lambda: registry.tools(caller=Caller())[0].spec.version == "1")
    assert ["2"] == versions
    assert 5 == await agent.call("add", {"a": 2, "b": 3})


async def test_an_idempotent_call_of_a_lost_worker_goes_elsewhere(agent: Agent, start: StartWorker) -> None:
    first = await start(agent, wait, idempotent=True)
    call = asyncio.create_task(agent.call("wait"))
    await until(lambda: seen.begun == 1)
    await start(agent, wait, idempotent=True)

    await first.lose()
    await until(lambda: seen.begun == 2)
    seen.go.set()
    assert "done" == await call
    assert [1, 2] == seen.attempts


async def test_any_other_call_of_a_lost_worker_ends_so(agent: Agent, start: StartWorker) -> None:
    first = await start(agent, wait)
    call = asyncio.create_task(agent.call("wait"))
    await until(lambda: seen.begun == 1)
    await start(agent, wait)

    await first.lose()
    with pytest.raises(WorkerLost) as caught:
        await call
    assert "w0" == caught.value.metadata["worker"]
    assert 1 == seen.begun


async def test_a_draining_worker_finishes_what_runs_and_takes_nothing_new(
    agent: Agent, start: StartWorker
) -> None:
    worker = await start(agent, wait)
    call = asyncio.create_task(agent.call("wait"))
    await until(lambda: seen.begun == 1)

    worker.worker.stop()
    await until(lambda: not agent.has("wait"))
    assert not worker.task.done()
    seen.go.set()
    assert "done" == await call
    async with asyncio.timeout(GUARD_S):
        await worker.task
    assert "drained" == worker.told[-1]


async def test_a_worker_that_is_stopped_twice_stops_what_runs(agent: Agent, start: StartWorker) -> None:
    worker = await start(agent, wait)
    call = asyncio.create_task(agent.call("wait"))
    await until(lambda: seen.begun == 1)

    worker.worker.stop()
    await until(lambda: not agent.has("wait"))
    worker.worker.stop()
    async with asyncio.timeout(GUARD_S):
        await worker.task
    with pytest.raises(WorkerLost):
        await call
    assert 1 == seen.stopped


async def test_a_call_that_is_cancelled_while_it_waits_for_credit_takes_none(
    agent: Agent, start: StartWorker
) -> None:
    async def wait_too(context: AsyncContext) -> str:
        return await wait(context)

    await start(agent, wait, wait_too, slots=1)
    first = asyncio.create_task(agent.call("wait"))
    await until(lambda: seen.begun == 1)
    second = asyncio.create_task(agent.call("wait_too"))
    await asyncio.sleep(0.1)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)

    seen.go.set()
    assert ["done", "done"] == [await first, await agent.call("wait_too")]
    (session,) = agent.fleet._sessions.values()
    await until(lambda: session.busy == 0)


async def test_a_waiting_call_is_told_when_the_last_worker_leaves(agent: Agent, start: StartWorker) -> None:
    worker = await start(agent, wait, slots=1)
    running, waiting = (asyncio.create_task(agent.call("wait")) for _ in range(2))
    await until(lambda: seen.begun == 1)

    worker.worker.stop()
    await until(lambda: not agent.has("wait"))
    seen.go.set()
    assert "done" == await running
    with pytest.raises(NoWorker):
        await waiting


async def test_a_stream_that_gets_old_is_replaced_while_calls_run(
    mesh: Mesh, tmp_path: Path, start: StartWorker
) -> None:
    async with agent_of(mesh, tmp_path, life=timedelta(seconds=0.3)) as agent:
        agent.allow({"tool-worker": {"tenant": "*", "tools": ["*"]}})
        worker = await start(agent, wait, add)
        call = asyncio.create_task(agent.call("wait"))
        await until(lambda: seen.begun == 1)
        (session,) = agent.fleet._sessions.values()
        streams = {id(session._stream): session._stream}

        async with asyncio.timeout(GUARD_S):
            while len(streams) < 4:
                streams[id(session._stream)] = session._stream
                assert 5 == await agent.call("add", {"a": 2, "b": 3})
        seen.go.set()

        assert "done" == await call
        assert [1, 0] == [seen.begun, seen.stopped]
        assert 1 == sum(line.startswith("serving") for line in worker.told)


async def test_items_come_singly_and_a_slow_reader_slows_the_tool(agent: Agent, start: StartWorker) -> None:
    await start(agent, numbers)
    got: list[int] = []
    go_on = asyncio.Event()

    async def read(event: Any) -> None:
        if isinstance(event, Chunk):
            await go_on.wait()
            got.append(event.value)

    action = Action("numbers", {"to": 50})
    call = asyncio.create_task(
        agent.manager.dispatcher.dispatch(action, caller=Caller(), sink=read, collect=False)
    )
    await until(lambda: seen.yielded == 1)
    await asyncio.sleep(0.2)
    held = seen.yielded
    go_on.set()
    await call

    assert held < 10
    assert list(range(50)) == got


async def test_an_agent_that_ends_lets_calls_finish_and_the_worker_goes_elsewhere(
    agent: Agent, mesh: Mesh, tmp_path: Path, start: StartWorker
) -> None:
    async with agent_of(mesh, tmp_path) as ending:
        ending.allow({"tool-worker": {"tenant": "*", "tools": ["*"]}})
        worker = await start(ending, wait)
        call = asyncio.create_task(ending.call("wait"))
        await until(lambda: seen.begun == 1)
        object.__setattr__(worker.worker._dialer, "address", f"127.0.0.1:{agent.port}")

        ending.fleet.begin_drain()
        await until(lambda: agent.has("wait"))
        seen.go.set()
        assert "done" == await call
        assert "done" == await agent.call("wait")


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
