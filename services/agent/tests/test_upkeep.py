"""Children are replaced when they wear out, start a few at a time, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup
from aegis_agent.adapters.children.starts import AT_ONCE
from aegis_agent.domain.call import NOBODY, Call
from aegis_agent.domain.errors import ToolCrashed, ToolFailed
from aegis_common.errors import AegisError
from aegis_common.testing.processes import is_alive

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakePool = Callable[..., WorkerPool]
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]
GUARD_S = 60


async def run(pool: WorkerPool, **arguments: Any) -> Any:
    call = Call(arguments=arguments, caller=NOBODY, deadline=asyncio.get_running_loop().time() + GUARD_S)
    async with asyncio.timeout_at(call.deadline):
        return await pool.run(call)


def children_of(server: ForkServer) -> list[psutil.Process]:
    if server._process is None:
        return []  # it starts with the first child
    return [item for item in psutil.Process(server._process.pid).children() if is_alive(item)]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("hostile:leave_thread", {}),
        ("hostile:leak_descriptors", {"count": 20}),
        ("hostile:close_standard", {}),
    ],
)
async def test_a_child_that_a_call_has_spoilt_serves_no_more(
    make_pool: MakePool, tool: str, arguments: dict[str, Any]
) -> None:
    pool = make_pool(tool)

    pids = [await run(pool, **arguments) for _ in range(4)]

    assert len(set(pids)) >= 2


async def test_a_child_that_keeps_its_measure_serves_on(make_pool: MakePool) -> None:
    pool = make_pool("tools:own_pid")

    pids = {await run(pool) for _ in range(50)}

    assert len(pids) == 1


async def test_a_child_that_ran_out_of_memory_serves_no_more(make_pool: MakePool) -> None:
    pool = make_pool("tools:allocate", WorkerLimits(memory_bytes=128 << 20))
    await run(pool, mebibytes=1)
    (worker,) = pool._idle[-1:]
    with pytest.raises(AegisError):
        await run(pool, mebibytes=512)

    assert worker not in pool._idle


async def test_a_set_up_that_fails_is_tried_now_and_then_and_calls_are_told(make_pool: MakePool) -> None:
    pool = make_pool("tools:never_ready", warm_up="tools:broken_warm_up")
    starts = 0
    spawn = pool._server.spawn

    async def counted(connection: Any) -> int:
        nonlocal starts
        starts += 1
        return await spawn(connection)

    pool._server.spawn = counted  # type: ignore[method-assign]
    try:
        outcomes = await asyncio.gather(*(run(pool) for _ in range(3)), return_exceptions=True)
        for _ in range(100):
            outcomes += await asyncio.gather(run(pool), return_exceptions=True)
    finally:
        pool._server.spawn = spawn  # type: ignore[method-assign]

    assert all(isinstance(item, ToolFailed) for item in outcomes)
    last = outcomes[-1]
    assert isinstance(last, ToolFailed)
    assert "cannot be set up: RuntimeError: the model is missing" in last.message
    assert (last.metadata["phase"], last.metadata["error"]) == ("setup", "RuntimeError")
    assert float(last.metadata["next_try_s"]) > 0
    assert starts < 20


async def test_a_set_up_that_works_again_is_found(fork_server: ForkServer, make_pool: MakePool) -> None:
    pool = make_pool("hostile:mended", warm_up="hostile:needs_file")
    fork_server.start()
    assert fork_server._process is not None
    wanted = Path(tempfile.gettempdir()) / f"aegis-test-{fork_server._process.pid}"
    with pytest.raises(ToolFailed):
        await run(pool)
    wanted.touch()
    try:
        outcome: Any = None
        while outcome != 1:
            await asyncio.sleep(0.05)
            (outcome,) = await asyncio.gather(run(pool), return_exceptions=True)
    finally:
        wanted.unlink()

    assert outcome == 1


async def test_an_idle_child_that_dies_is_noticed_and_no_call_meets_it(
    make_pool: MakePool, wait_until: WaitUntil
) -> None:
    pool = make_pool("tools:own_pid")
    pid = await run(pool)
    await wait_until(lambda: len(pool._idle) == 2)
    for worker in list(pool._idle):
        os.kill(worker.pid, signal.SIGKILL)

    await wait_until(lambda: not pool._idle)

    assert await run(pool) != pid


async def test_a_tool_that_always_dies_when_idle_makes_no_storm(make_pool: MakePool) -> None:
    pool = make_pool("tools:own_pid", warm_up="hostile:doomed")
    ended = 0
    see_off = pool._see_off

    def counted(worker: Any) -> Any:
        nonlocal ended
        ended += 1
        return see_off(worker)

    pool._see_off = counted  # type: ignore[method-assign]
    await pool.start()
    await asyncio.sleep(2)

    assert 1 <= ended <= 10


async def test_a_storm_of_kills_starts_few_children_at_once(
    fork_server: ForkServer, make_pool: MakePool
) -> None:
    size = 6
    pool = make_pool("tools:spin", size=size)
    most_starts = most_children = 0

    async def killed() -> None:
        task = asyncio.create_task(run(pool))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def storm() -> None:
        for _ in range(10):
            await killed()

    storms = asyncio.gather(*(storm() for _ in range(size)))
    while not storms.done():
        most_starts = max(most_starts, len(pool._starts))
        most_children = max(most_children, len(children_of(fork_server)))
        await asyncio.sleep(0.005)

    assert 1 <= most_starts <= AT_ONCE
    assert most_children <= 2 * (size + 1)


async def test_closing_in_the_middle_of_everything_leaves_nothing(wait_until: WaitUntil) -> None:
    server = ForkServer()
    pool = WorkerPool("t", server, WorkerSetup(target="aegis_agent.testing.tools:spin"), size=4)
    threads, descriptors = psutil.Process().num_threads(), psutil.Process().num_fds()
    tasks = [asyncio.create_task(run(pool)) for _ in range(6)]
    await wait_until(lambda: bool(pool._busy))
    assert server._process is not None
    zygote = psutil.Process(server._process.pid)
    family = [zygote, *zygote.children(recursive=True)]

    await pool.close()
    await server.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(item, ToolCrashed) for item in outcomes)
    assert not any(item.is_running() for item in family)
    assert not pool._starts | pool._ends | pool._busy
    await wait_until(lambda: psutil.Process().num_fds() <= descriptors)
    assert psutil.Process().num_threads() <= threads + 1


async def test_a_hundred_kills_leak_nothing_in_the_agent(make_pool: MakePool, wait_until: WaitUntil) -> None:
    pool = make_pool("tools:slow", size=2)
    await run(pool, seconds=0)
    await wait_until(lambda: not pool._starts)
    before = psutil.Process().num_fds()

    for _ in range(100):
        task = asyncio.create_task(run(pool, seconds=600))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await run(pool, seconds=0) == 0

    await wait_until(lambda: not pool._starts | pool._ends)
    assert psutil.Process().num_fds() <= before + 2
