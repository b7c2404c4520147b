"""DispatchStream over mutual TLS: every event, one last one, and a reader whose pace counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.agent_servicer import AgentServicer
from aegis_agent.context import AsyncContext
from aegis_agent.domain.call import Caller
from aegis_agent.domain.errors import ToolFailed
from aegis_common.errors import ErrorKind
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import details_of, from_status
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.audit import lines
from aegis_common.testing.pki import Mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
ANYBODY = Caller()


class Seen:
    """What the tools of this module did."""

    def __init__(self) -> None:
        self.yielded = 0
        self.stopped = asyncio.Event()


seen = Seen()


@pytest.fixture(autouse=True)
def fresh() -> None:
    global seen
    seen = Seen()


async def count(to: int, context: AsyncContext) -> AsyncIterator[int]:
    for number in range(to):
        context.log.info("at %d", number)
        await context.progress(number, to, "counting")
        yield number


async def flood(size: int) -> AsyncIterator[bytes]:
    """Gives bytes without end."""
    try:
        while True:
            yield bytes(size)
            seen.yielded += 1
    finally:
        seen.stopped.set()


async def stumble(after: int) -> AsyncIterator[int]:
    for number in range(after):
        yield number
    raise ValueError("no more")


async def tell(context: AsyncContext) -> dict[str, Any]:
    context.log.warning("careful")
    await context.progress(1)
    await context.checkpoint(b"half way")
    return {"tenant": context.tenant}


async def sleep(context: AsyncContext) -> str:
    await asyncio.sleep(600)
    return context.tenant


async def constant() -> str:
    return "always"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def manager() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        for function in (count, flood, stumble, tell, sleep):
            made.register_tool(function.__name__, function)
        made.register_tool("constant", constant, cacheable=True)
        yield made


class Door:
    """A served manager and a stub of its service."""

    def __init__(self, stub: pb_grpc.AgentServiceAsyncStub, mesh: Mesh, settings: ServiceSettings) -> None:
        self.stub = stub
        self.mesh = mesh
        self.settings = settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(manager: AgentManager, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    mesh = Mesh(tmp_path_factory.mktemp("stream"))
    settings = ServiceSettings(**mesh.service_kwargs("agent"))
    servicer = AgentServicer(manager.registry, manager.dispatcher)
    add = [(pb_grpc.add_AgentServiceServicer_to_server, servicer)]
    async with serving(settings, name="agent", add=add) as server:
        target = f"127.0.0.1:{server.port}"
        async with mesh_channel(target, service="agent", tls=mesh.tls("sdk")) as channel:
            yield Door(pb_grpc.AgentServiceStub(channel), mesh, settings)


def request(tool: str, **arguments: Any) -> pb.DispatchStreamRequest:
    made = pb.DispatchStreamRequest(tool=f"tools/{tool}")
    if arguments:
        struct = Struct()
        struct.update(arguments)
        made.payload.add(json=struct)
    return made


async def events_of(call: Any) -> list[pb.DispatchStreamResponse]:
    return [event async for event in call]


def kinds(events: list[pb.DispatchStreamResponse]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


async def refusal(call: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(call)
    details = details_of(caught.value)
    return details.kind, details.reason


async def test_the_stream_tells_start_progress_log_items_and_the_result(door: Door) -> None:
    events = await events_of(door.stub.DispatchStream(request("count", to=2)))

    assert kinds(events) == ["started", *["log", "progress", "item"] * 2, "result"]
    assert events[0].started.tool == "tools/count"
    assert events[1].log == pb.CallLogLine(level=pb.CallLogLine.LEVEL_INFO, message="at 0")
    assert events[2].progress == pb.CallProgress(done=0, total=2, message="counting")
    assert [MessageToDict(event.item.parts[0].json) for event in (events[3], events[6])] == [
        {"result": 0}, {"result": 1},
    ]  # fmt: skip
    assert [event.item.index for event in (events[3], events[6])] == [0, 1]
    assert (events[-1].result.tool, list(events[-1].result.result)) == ("tools/count", [])


async def test_a_tool_that_does_not_stream_gives_its_result_in_the_last_event(door: Door) -> None:
    events = await events_of(door.stub.DispatchStream(request("tell")))

    assert kinds(events) == ["started", "log", "progress", "result"]
    assert MessageToDict(events[-1].result.result[0].json)["tenant"] == "default"


async def test_a_failure_on_the_way_is_the_one_last_event_and_is_audited(
    door: Door, wait_until: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    events = await events_of(door.stub.DispatchStream(request("stumble", after=1)))

    assert kinds(events) == ["started", "item", "error"]
    error = from_status(events[-1].error)
    assert (error.kind, error.reason, error.metadata["tool"]) == (
        ErrorKind.FAILED_PRECONDITION, ToolFailed.reason, "stumble",
    )  # fmt: skip
    await wait_until(lambda: ("OK", "TOOL_FAILED", {"tool": "stumble"}) in audited(door))


async def test_the_audit_log_names_the_tools_that_are_called(
    door: Door, wait_until: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    calls = [pb.DispatchRequest(tool=f"tools/{name}") for name in ("tell", "nope")]

    await door.stub.BatchDispatch(pb.BatchDispatchRequest(requests=calls))

    await wait_until(lambda: ("OK", "", {"tool": "nope,tell"}) in audited(door))


async def test_the_end_of_the_time_is_the_one_last_event(door: Door) -> None:
    short = request("sleep")
    short.timeout.FromMilliseconds(100)
    events = await events_of(door.stub.DispatchStream(short))

    assert kinds(events) == ["started", "error"]
    assert from_status(events[-1].error).reason == "TOOL_TIMEOUT"


async def test_the_deadline_of_the_call_is_the_one_last_event_too(door: Door) -> None:
    events = await events_of(door.stub.DispatchStream(request("sleep"), timeout=1))

    assert kinds(events) == ["started", "error"]
    assert from_status(events[-1].error).reason == "TOOL_TIMEOUT"


async def test_a_cached_result_comes_at_once_and_says_so(door: Door) -> None:
    first = await events_of(door.stub.DispatchStream(request("constant")))
    second = await events_of(door.stub.DispatchStream(request("constant")))

    assert (kinds(first), kinds(second)) == (["started", "result"], ["result"])
    assert [first[-1].result.cached, second[-1].result.cached] == [False, True]


async def test_what_is_refused_before_it_starts_is_a_plain_status(door: Door) -> None:
    assert await refusal(door.stub.DispatchStream(request("cuont"))) == (ErrorKind.NOT_FOUND, "UNKNOWN_TOOL")
    assert await refusal(door.stub.DispatchStream(request("count", to="two"))) == (
        ErrorKind.INVALID_ARGUMENT, "INVALID_TOOL_INPUT",
    )  # fmt: skip


async def test_closing_the_stream_stops_the_work(
    door: Door, manager: AgentManager, wait_until: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    call = door.stub.DispatchStream(request("flood", size=1))
    async for event in call:
        if event.HasField("item"):
            break
    call.cancel()

    await wait_until(seen.stopped.is_set)
    admission = manager.registry.find("flood", caller=ANYBODY).admission
    await wait_until(lambda: admission.running == 0)


async def test_a_slow_reader_bounds_what_the_tool_makes(door: Door) -> None:
    """Without flow control the tool would run on while nobody reads, and its items would pile up."""
    call = door.stub.DispatchStream(request("flood", size=256 << 10), timeout=GUARD_S)
    read = ahead = 0
    async with aclosing(events_of_stream(call)) as events:
        async for event in events:
            read += event.HasField("item")
            if read == 2:
                await settled(lambda: seen.yielded)
                ahead = seen.yielded - read
                break

    assert 0 < ahead <= 64  # 16 MiB: the windows of the connection and what gRPC holds on both sides


def audited(door: Door) -> list[tuple[object, ...]]:
    records = [line for path in door.settings.audit_dir.glob("*.jsonl") for line in lines(path)]
    return [(record.get("code"), record.get("reason"), record.get("notes")) for record in records]


async def events_of_stream(call: Any) -> AsyncGenerator[pb.DispatchStreamResponse]:
    try:
        async for event in call:
            yield event
    finally:
        call.cancel()


async def settled(value: Callable[[], int]) -> None:
    """Return when *value* no longer changes."""
    before = -1
    while before != value():
        before = value()
        await asyncio.sleep(0.3)
