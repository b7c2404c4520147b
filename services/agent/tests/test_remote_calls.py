"""Calls of remote workers' tools: how they reach a worker, and what becomes of them when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from services.agent.tests.remote_agent import (
    GUARD_S,
    Agent,
    StartWorker,
    add,
    agent_of,
    fail,
    numbers,
    seen,
    wait,
    without_workers,
    worker_mesh,
    workers,
)

from aegis_agent.adapters.remote.errors import NoWorker, WorkerLost
from aegis_agent.context import AsyncContext
from aegis_agent.domain.call import Caller, Chunk
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import ToolFailed, ToolTimeout
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.clear()


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
