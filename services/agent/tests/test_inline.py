"""Async tools that misbehave in the agent's loop: their faults stay their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from aegis_agent import AgentManager
from aegis_agent.adapters import inline
from aegis_agent.context import AsyncContext
from aegis_agent.domain.call import Caller, Event, LogLine
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import ToolFailed, ToolTimeout
from aegis_common.errors import InvalidArgument
from aegis_common.testing.waiting import until


async def ends_the_process() -> None:
    sys.exit(3)


async def waits_for_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def fine() -> int:
    return 1


@pytest.fixture
async def manager() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        yield made


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(seconds=5)])
@pytest.mark.parametrize(
    ("function", "kind"), [(ends_the_process, "SystemExit"), (waits_for_a_cancelled_task, "CancelledError")]
)
async def test_what_would_end_more_than_the_call_is_a_failure_of_this_tool_alone(
    manager: AgentManager, function: Callable[..., object], kind: str, grace: timedelta
) -> None:
    manager.register_tool("bad", function, grace=grace)
    manager.register_tool("fine", fine)

    bad, good = await manager.dispatch_multimodal([{"tool": "bad"}, {"tool": "fine"}])

    assert isinstance(bad, ToolFailed)
    assert bad.metadata["error"] == kind
    assert good == 1


async def test_a_tool_that_would_not_be_cancelled_is_late_all_the_same(manager: AgentManager) -> None:
    async def stubborn() -> int:
        end = asyncio.get_running_loop().time() + 0.3
        while (left := end - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        return 1

    manager.register_tool("stubborn", stubborn)

    with pytest.raises(ToolTimeout):
        await manager.dispatch("stubborn", {}, timeout=0.05)


async def ends_never(beats: list[int]) -> int:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        beats.append(1)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("grace", [timedelta(0), timedelta(milliseconds=20)])
async def test_a_tool_that_never_lets_go_is_stopped_and_its_slot_is_free(
    manager: AgentManager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    grace: timedelta,
    *,
    streams: bool,
) -> None:
    beats: list[int] = []

    async def never() -> int:
        return await ends_never(beats)

    async def never_yields() -> AsyncIterator[int]:
        yield await ends_never(beats)

    monkeypatch.setattr(inline, "_PATIENCE_S", 0.05)
    manager.register_tool("never", never_yields if streams else never, grace=grace, concurrency=1)

    for _ in range(2):
        with pytest.raises(ToolTimeout):
            await manager.dispatch("never", {}, timeout=0.05)
    await until(lambda: caplog.text.count("did not end when it was cancelled") == 2)

    stopped = len(beats)
    await asyncio.sleep(0.05)
    assert len(beats) == stopped > 0


async def test_what_a_cancelled_tool_does_in_time_it_does_to_its_end(manager: AgentManager) -> None:
    done: list[str] = []

    async def tidies() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            done.append("tidied")

    manager.register_tool("tidies", tidies)
    task = asyncio.create_task(manager.dispatch("tidies", {}))
    await asyncio.sleep(0.02)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["tidied"]


async def test_lines_that_a_thread_of_the_tool_logs_arrive(manager: AgentManager) -> None:
    async def threaded(context: AsyncContext) -> int:
        await asyncio.to_thread(lambda: context.log.warning("from a thread"))
        return 1

    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    asyncio.get_running_loop().set_debug(True)  # refuses what only the loop's own thread may do
    manager.register_tool("threaded", threaded)
    await manager.dispatcher.dispatch(Action("threaded", {}), caller=Caller(), sink=sink)

    assert told == [LogLine(level="WARNING", message="from a thread")]


async def test_a_line_that_cannot_be_written_does_not_fail_the_call(
    manager: AgentManager, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("aegis_agent.tool"), "propagate", False)  # pytest's handler raises

    async def careless(context: AsyncContext) -> int:
        context.log.info("%d items", "some")  # noqa: PLE1205, RUF100
        return 1

    manager.register_tool("careless", careless)

    assert await manager.dispatch("careless", {}) == 1
    assert "%d items" in capsys.readouterr().err


async def test_what_a_tool_leaves_running_is_not_heard_any_more(manager: AgentManager) -> None:
    left: list[asyncio.Task[None]] = []

    async def leaves(context: AsyncContext) -> int:
        async def later() -> None:
            await asyncio.sleep(0.05)
            context.log.info("too late")

        left.append(asyncio.create_task(later()))
        return 1

    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    manager.register_tool("leaves", leaves)
    await manager.dispatcher.dispatch(Action("leaves", {}), caller=Caller(), sink=sink)
    await left[0]
    await asyncio.sleep(0.05)

    assert told == []


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), "5", 0, -1, timedelta(0)])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(manager: AgentManager, limit: float) -> None:
    manager.register_tool("fine", fine)

    with pytest.raises(InvalidArgument, match="is no number of seconds"):
        await manager.dispatch("fine", {}, timeout=limit)
