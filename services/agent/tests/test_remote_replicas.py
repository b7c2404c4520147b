"""Two replicas over mutual TLS and a real Redis: a worker of one serves calls that arrive at the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.jobs.connection import connect
from aegis_agent.adapters.remote.dialer import Dialer
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.peers import INDEX, PREFIX, Peers
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.adapters.remote.servicer import WorkerServicer
from aegis_agent.adapters.remote.worker import RemoteWorker, WorkerOptions
from aegis_agent.context import AsyncContext
from aegis_agent.domain.call import Caller, Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import ToolFailed, ToolTimeout, UnknownTool
from aegis_agent.domain.registry import EVERYONE
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import RedisServer
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
CALLER = Caller(tenant="acme", subject="ann", roles=frozenset({"operator"}))


class Seen:
    """What the tools of this module did."""

    def __init__(self) -> None:
        self.begun = 0
        self.stopped = 0
        self.yielded = 0


seen = Seen()


@pytest.fixture(autouse=True)
def fresh() -> None:
    global seen
    seen = Seen()


async def who(data: bytes, context: AsyncContext) -> dict[str, Any]:
    return {"tenant": context.tenant, "attempt": context.attempt, "data": data}


async def wait() -> None:
    seen.begun += 1
    try:
        await asyncio.sleep(600)
    finally:
        seen.stopped += 1


async def numbers(to: int, context: AsyncContext) -> AsyncIterator[int]:
    context.log.info("begin")
    await context.checkpoint(b"state")
    for number in range(to):
        await context.progress(number, to)
        seen.yielded += 1
        yield number


async def big(size: int) -> AsyncIterator[bytes]:
    while True:
        seen.yielded += 1
        yield bytes(size)


async def fail() -> str:
    raise ValueError("no")


class Replica:
    """One agent."""

    def __init__(self, mesh: Mesh, policy: Path, redis: RedisServer) -> None:
        self.mesh, self.policy, self.redis = mesh, policy, redis
        self.manager = AgentManager()
        self.fleet = Fleet(self.manager.registry, heartbeat=timedelta(seconds=1))
        self.port = 0
        self._stack = AsyncExitStack()
        self._peers = AsyncExitStack()

    async def start(self) -> None:
        settings = ServiceSettings(**self.mesh.service_kwargs("agent"), drain=timedelta(seconds=1))
        servicer = WorkerServicer(self.fleet, WorkerPolicy(self.policy), max_message_bytes=9 << 20)
        await self._stack.enter_async_context(self.manager)
        add = [(pb_grpc.add_WorkerServiceServicer_to_server, servicer)]
        server = await self._stack.enter_async_context(serving(settings, name="agent", add=add))
        self._stack.callback(servicer.begin_drain)
        self.port = server.port
        peers = Peers(
            self.fleet,
            connect(self.redis.url),
            advertise=f"127.0.0.1:{self.port}",
            tls=settings.tls,
            look=timedelta(seconds=0.1),
        )
        self._peers.push_async_callback(peers.close)
        await self._peers.enter_async_context(peers)

    async def stop(self) -> None:
        await self._peers.aclose()
        await self._stack.aclose()

    def has(self, tool: str) -> bool:
        return self.manager.registry.owned(tool, owner=EVERYONE) is not None

    async def call(self, tool: str, payload: dict[str, Any] | None = None, **options: Any) -> Any:
        async with asyncio.timeout(GUARD_S):
            action = Action(tool, payload or {}, options.pop("timeout", None))
            return await self.manager.dispatcher.dispatch(action, caller=CALLER, **options)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    made = Mesh(tmp_path_factory.mktemp("mesh"))
    worker = made.spiffe_id("tool-worker")
    made.write_identities({worker: {"tenant": "default", "roles": ["worker"]}})
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(mesh: Mesh, redis: RedisServer) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas; the first has a worker."""
    policy = mesh.folder / "policy.json"
    grant = {"tenant": "*", "tools": ["*"]}
    workers = {mesh.spiffe_id("tool-worker"): grant}
    policy.write_text(json.dumps({"schema_version": 1, "workers": workers}))
    first, second = Replica(mesh, policy, redis), Replica(mesh, policy, redis)
    await first.start()
    await second.start()
    async with Working(first, who, wait, numbers, big, fail):
        await until(lambda: second.has("who"))
        yield first, second
    await second.stop()
    await first.stop()


class Working:
    """A worker in this process, while the block runs."""

    def __init__(self, replica: Replica, *functions: Any) -> None:
        tls = replica.mesh.tls("tool-worker")
        dialer = Dialer(
            address=f"127.0.0.1:{replica.port}",
            cert=tls.cert,
            key=tls.key,
            ca=tls.bundle,
            server_name="agent.aegis.aegis.internal",
        )
        self.manager = AgentManager()
        for function in functions:
            self.manager.register_tool(function.__name__, function)
        options = WorkerOptions(name="w", slots=8)
        self.worker = RemoteWorker(self.manager.registry, dialer, options, lambda _: None)

    async def __aenter__(self) -> None:
        self.task = asyncio.create_task(self.worker.run())

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.manager.close()


Pair = tuple[Replica, Replica]


async def test_a_worker_of_one_replica_serves_a_call_at_the_other(pair: Pair) -> None:
    result = await pair[1].call("who", {"data": b"\0\1"})

    assert {"tenant": "acme", "attempt": 1, "data": b"\0\1"} == result.value


async def test_what_a_tool_tells_on_the_way_comes_through_in_order(pair: Pair) -> None:
    told: list[Event] = []

    async def read(event: Event) -> None:
        told.append(event)

    await pair[1].call("numbers", {"to": 3}, sink=read, collect=False)

    assert [0, 1, 2] == [event.value for event in told if isinstance(event, Chunk)]
    assert [b"state"] == [event.data for event in told if isinstance(event, Checkpoint)]
    assert any(isinstance(event, Progress) for event in told)
    assert ["begin"] == [event.message for event in told if isinstance(event, LogLine)]


async def test_a_slow_reader_at_the_other_replica_slows_the_tool(pair: Pair) -> None:
    stuck = asyncio.Event()

    async def read(event: Event) -> None:
        await stuck.wait()

    call = asyncio.create_task(pair[1].call("big", {"size": 1 << 20}, sink=read, collect=False))
    await until(lambda: seen.yielded > 0)
    before = -1
    while seen.yielded != before:
        before = seen.yielded
        await asyncio.sleep(0.3)

    assert before < 50
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_the_deadline_reaches_the_worker_of_the_other_replica(pair: Pair) -> None:
    with pytest.raises(ToolTimeout):
        await pair[1].call("wait", timeout=timedelta(seconds=0.5))
    await until(lambda: seen.stopped == 1)


async def test_a_cancelled_call_stops_at_the_worker_of_the_other_replica(pair: Pair) -> None:
    call = asyncio.create_task(pair[1].call("wait"))
    await until(lambda: seen.begun == 1)

    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: seen.stopped == 1)


async def test_what_a_tool_raises_reaches_the_other_replica(pair: Pair) -> None:
    with pytest.raises(ToolFailed, match="ValueError: no"):
        await pair[1].call("fail")


async def test_only_an_agent_may_forward(pair: Pair, mesh: Mesh) -> None:
    request = pb.ForwardRequest(digest="0" * 64, call=pb.WorkerCall(tool="who"))
    reasons = []
    for account in ("admin", "tool-worker", "agent"):
        channel = mesh.channel(pair[0].port, "agent", account=account)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.WorkerServiceStub(channel).Forward(request).read()
        reasons.append(details_of(caught.value).reason)
        await channel.close(None)

    assert ["ROLE_MISSING", "ROLE_MISSING", "NO_WORKER"] == reasons


async def test_tools_of_workers_come_and_go_at_both(pair: Pair) -> None:
    async def late() -> str:
        return "late"

    async with Working(pair[1], late):
        await until(lambda: pair[0].has("late"))
        assert "late" == (await pair[0].call("late")).value
    await until(lambda: not pair[0].has("late"))
    with pytest.raises(UnknownTool):
        await pair[0].call("late")


async def test_records_that_cannot_be_read_are_passed_over(pair: Pair, redis: RedisServer) -> None:
    client = connect(redis.url)
    for name, record in (
        ("newer", '{"schema_version": 2, "address": "a:1", "tools": []}'),
        ("broken", "{"),
        ("odd", '{"schema_version": 1, "address": "a:1", "tools": [{"owner": "", "tool": "!!"}]}'),
    ):
        await client.set(PREFIX + name, record, px=2000)
        await client.sadd(INDEX, name)
    await asyncio.sleep(0.5)

    assert b"1" == (await pair[1].call("who", {"data": b"1"})).value["data"]
    await client.aclose()


async def test_a_call_that_a_dead_replica_never_got_goes_to_another_one(
    pair: Pair, redis: RedisServer
) -> None:
    """The dead one is still in the roster, with more workers than the living one."""
    client: Any = connect(redis.url)
    for member in await client.smembers(INDEX):
        text = (await client.get(PREFIX + member.decode()) or b"").decode()
        if f'"127.0.0.1:{pair[0].port}"' in text:
            record = json.loads(text)
            tools = [{**tool, "capacity": 100} for tool in record["tools"]]
            ghost = {**record, "address": f"127.0.0.1:{free_port()}", "tools": tools}
            await client.set(PREFIX + "ghost", json.dumps(ghost), px=3000)
    await client.sadd(INDEX, "ghost")
    await asyncio.sleep(0.5)

    try:
        said = [(await pair[1].call("who", {"data": b"1"})).value["data"] for _ in range(5)]
    finally:
        await client.delete(PREFIX + "ghost")
        await client.aclose()

    assert [b"1"] * 5 == said


async def test_a_replica_that_goes_takes_its_workers_tools_with_it(
    pair: Pair, mesh: Mesh, redis: RedisServer
) -> None:
    async def third_only() -> int:
        return 3

    third = Replica(mesh, mesh.folder / "policy.json", redis)
    await third.start()
    async with Working(third, third_only):
        await until(lambda: pair[1].has("third_only"))
        assert 3 == (await pair[1].call("third_only")).value
        await third.stop()
        await until(lambda: not pair[1].has("third_only"))
