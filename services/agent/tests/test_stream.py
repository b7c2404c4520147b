"""Streams: what a tool tells while it runs, in order, with one last event, at the pace of the reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from aegis_agent import AgentManager
from aegis_agent.context import ArtifactError, AsyncContext
from aegis_agent.domain.call import Attempt, Caller, Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import InvalidToolOutput, ToolOutputTooLarge, ToolTimeout
from aegis_agent.domain.execution import Begun
from aegis_agent.domain.result import Result

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
ANYBODY = Caller()


class Seen:
    """What the tools of this module did."""

    def __init__(self) -> None:
        self.yielded = 0
        self.stopped = asyncio.Event()
        self.tidied = False


seen = Seen()


@pytest.fixture(autouse=True)
def fresh() -> None:
    global seen
    seen = Seen()


async def count(to: int, context: AsyncContext) -> AsyncIterator[int]:
    """Counts."""
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


async def wrong(after: int) -> AsyncIterator[int]:
    for number in range(after):
        yield number
    yield "a word"  # type: ignore[misc]  # that is the test


async def tell(context: AsyncContext) -> dict[str, Any]:
    """Tells what it knows of its call."""
    context.log.debug("not told")
    context.log.warning("careful: %s", "hot")
    await context.progress(1)
    await context.checkpoint(b"half way")
    try:
        await context.read_artifact("artifacts/x")
    except ArtifactError as error:
        context.log.error(str(error))
    return {
        "tenant": context.tenant,
        "attempt": context.attempt,
        "job": context.job,
        "checkpointed": context.checkpointed,
        "in_time": 0 < context.time_left() <= 30,
        "cancelled": context.cancelled,
    }


async def tidy(context: AsyncContext) -> str:
    """Goes on after a cancellation until it has tidied up."""
    while not context.cancelled:  # noqa: ASYNC110  # that is how a tool looks
        await asyncio.sleep(0.001)
    seen.tidied = True
    seen.stopped.set()
    return "done"


async def stubborn(context: AsyncContext) -> str:
    try:
        await asyncio.sleep(600)
    finally:
        seen.stopped.set()
    return "done"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def manager() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        for function in (count, flood, stumble, wrong, tell):
            made.register_tool(function.__name__, function)
        made.register_tool("tidy", tidy, grace=timedelta(seconds=10))
        made.register_tool("stubborn", stubborn, grace=timedelta(milliseconds=50))
        yield made


async def told(manager: AgentManager, name: str, payload: Any, **options: Any) -> list[Any]:
    async with manager.stream(name, payload, **options) as stream:
        return [event async for event in stream]


async def test_events_come_in_order_and_the_result_is_the_last(manager: AgentManager) -> None:
    begun, *events, last = await told(manager, "count", {"to": 2})

    assert isinstance(begun, Begun)
    assert events == [
        LogLine(level="INFO", message="at 0"),
        Progress(done=0, total=2, message="counting"),
        Chunk(0),
        LogLine(level="INFO", message="at 1"),
        Progress(done=1, total=2, message="counting"),
        Chunk(1),
    ]
    assert isinstance(last, Result)
    assert last.value is None


async def test_a_plain_dispatch_gives_the_list_of_items(manager: AgentManager) -> None:
    spec = manager.registry.find("count", caller=ANYBODY).tool.spec

    assert await manager.dispatch("count", {"to": 3}) == [0, 1, 2]
    assert (spec.streams, spec.output_schema) == (True, {"type": "array", "items": {"type": "integer"}})
    assert list(spec.input_schema["properties"]) == ["to"]


async def test_the_list_of_items_is_bounded_and_the_tool_stopped(manager: AgentManager) -> None:
    with pytest.raises(ToolOutputTooLarge):
        await manager.dispatch("flood", {"size": 1 << 20})

    assert (seen.stopped.is_set(), seen.yielded) == (True, 7)


async def test_each_item_is_checked_and_the_wrong_one_named(manager: AgentManager) -> None:
    events: list[Any] = []
    with pytest.raises(InvalidToolOutput) as caught:
        async with manager.stream("wrong", {"after": 2}) as stream:
            async for event in stream:
                events.append(event)

    assert events[1:] == [Chunk(0), Chunk(1)]
    assert caught.value.metadata["rule"] == "type"


async def test_an_item_beyond_the_limit_is_refused(manager: AgentManager) -> None:
    with pytest.raises(ToolOutputTooLarge):
        await told(manager, "flood", {"size": 65 << 20})


async def test_what_a_tool_is_told_and_tells(manager: AgentManager) -> None:
    events: list[Event] = []

    async def sink(event: Event) -> None:
        events.append(event)

    result = await manager.dispatcher.dispatch(
        Action("tell", {}),
        caller=Caller(tenant="red"),
        sink=sink,
        attempt=Attempt(number=2, job="7", checkpoint=b"x"),
    )

    assert result.value == {
        "tenant": "red",
        "attempt": 2,
        "job": "7",
        "checkpointed": b"x",
        "in_time": True,
        "cancelled": False,
    }
    assert events == [
        LogLine(level="WARNING", message="careful: hot"),
        Progress(done=1),
        Checkpoint(b"half way"),
        LogLine(level="ERROR", message="this agent has no artifact store"),
    ]


async def test_leaving_the_block_stops_the_work(manager: AgentManager) -> None:
    async with asyncio.timeout(GUARD_S), manager.stream("flood", {"size": 1}) as stream:
        async for event in stream:
            if isinstance(event, Chunk):
                break

    assert seen.stopped.is_set()
    assert manager.registry.find("flood", caller=ANYBODY).admission.running == 0


async def test_a_reader_that_waits_makes_the_tool_wait(manager: AgentManager) -> None:
    async with manager.stream("flood", {"size": 1}) as stream:
        events = aiter(stream)
        for _ in range(3):
            await anext(events)
        for _ in range(50):
            await asyncio.sleep(0)
        yielded = seen.yielded

    assert yielded <= 4


async def test_a_cancelled_tool_with_a_grace_may_tidy_up_beside_its_slot(manager: AgentManager) -> None:
    call = asyncio.create_task(manager.dispatch("tidy", {}))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    running = manager.registry.find("tidy", caller=ANYBODY).admission.running
    async with asyncio.timeout(GUARD_S):
        await seen.stopped.wait()

    assert (running, seen.tidied) == (0, True)


async def test_a_grace_ends(manager: AgentManager) -> None:
    call = asyncio.create_task(manager.dispatch("stubborn", {}))
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    async with asyncio.timeout(GUARD_S):
        await seen.stopped.wait()


async def test_a_tool_with_a_grace_sees_its_deadline_come(manager: AgentManager) -> None:
    assert await manager.dispatch("tidy", {}, timeout=1) == "done"


async def test_a_deadline_stops_whoever_does_not_look(manager: AgentManager) -> None:
    with pytest.raises(ToolTimeout):
        await manager.dispatch("stubborn", {}, timeout=0.1)

    assert seen.stopped.is_set()
