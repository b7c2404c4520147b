"""Children: killed at the deadline and on cancel, bounded, and never another call's failure."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aegis_agent import AgentManager, WorkerLimits
from aegis_agent.domain.errors import ToolCrashed, ToolQueueFull, ToolTimeout
from aegis_agent.domain.exceeded import ToolCpuExceeded
from aegis_agent.testing import tools
from aegis_common.errors import AegisError

IsAlive = Callable[[int], bool]
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _written(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


async def test_the_deadline_kills_a_busy_child(
    manager: AgentManager, tmp_path: Path, is_alive: IsAlive, wait_until: WaitUntil
) -> None:
    manager.register_tool("spin", tools.spin)
    await manager.warm_up()
    pid_file = tmp_path / "pid"

    with pytest.raises(ToolTimeout) as caught:
        await manager.dispatch("spin", {"pid_file": str(pid_file)}, timeout=1)

    assert caught.value.metadata == {
        "tool": "spin",
        "timeout_s": "1",
        "max_timeout_s": "600",
        "phase": "run",
    }
    pid = int(pid_file.read_text())
    await wait_until(lambda: not is_alive(pid))


async def test_the_next_call_runs_on_the_spare(manager: AgentManager) -> None:
    manager.register_tool("slow", tools.slow, concurrency=1)
    await manager.dispatch("slow", {"seconds": 0})
    with pytest.raises(ToolTimeout):
        await manager.dispatch("slow", {"seconds": 600}, timeout=0.3)

    assert await manager.dispatch("slow", {"seconds": 0}, timeout=30) == 0


async def test_cancelling_the_caller_kills_the_child(
    manager: AgentManager, tmp_path: Path, is_alive: IsAlive, wait_until: WaitUntil
) -> None:
    manager.register_tool("spin", tools.spin)
    pid_file = tmp_path / "pid"
    call = asyncio.create_task(manager.dispatch("spin", {"pid_file": str(pid_file)}))
    await wait_until(lambda: _written(pid_file))

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    pid = int(pid_file.read_text())
    await wait_until(lambda: not is_alive(pid))


async def test_what_a_tool_started_dies_with_it_even_outside_its_group(
    manager: AgentManager, tmp_path: Path, is_alive: IsAlive, wait_until: WaitUntil
) -> None:
    limits = WorkerLimits(may_fork=True)
    manager.register_tool("spin", tools.spin_with_descendants, limits=limits)
    pid_file = tmp_path / "pids"
    call = asyncio.create_task(manager.dispatch("spin", {"pid_file": str(pid_file)}))
    await wait_until(lambda: _written(pid_file))

    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    pids = [int(pid) for pid in pid_file.read_text().split()]
    await wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (tools.crash, "signal SIGSEGV"),
        (tools.leave, "exit status 3"),
        (tools.hang_up, "closed its connection, and was killed"),
        (tools.speak_nonsense, "sent what is no frame, and was killed"),
    ],
)
async def test_a_crash_is_the_error_of_that_call_alone(
    manager: AgentManager, function: Callable[..., int], how: str
) -> None:
    manager.register_tool("bad", function, concurrency=1)
    manager.register_tool("slow", tools.slow, concurrency=1)
    other = asyncio.create_task(manager.dispatch("slow", {"seconds": 0.5}))

    with pytest.raises(ToolCrashed) as caught:
        await manager.dispatch("bad", {})

    assert how in caught.value.message
    assert await other == 0.5


async def test_a_child_that_stalls_half_way_through_its_answer_stalls_nobody(manager: AgentManager) -> None:
    manager.register_tool("stall", tools.stall_half_way)
    manager.register_tool("add", tools.add)
    stalled = asyncio.create_task(manager.dispatch("stall", {}, timeout=1.5))

    assert await manager.dispatch("add", {"a": 1}) == 2
    assert not stalled.done()
    with pytest.raises(ToolTimeout):
        await stalled


async def test_a_child_killed_while_idle_is_not_used(
    manager: AgentManager, is_alive: IsAlive, wait_until: WaitUntil
) -> None:
    manager.register_tool("own_pid", tools.own_pid, concurrency=1)
    pid = await manager.dispatch("own_pid", {})
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not is_alive(pid))

    assert await manager.dispatch("own_pid", {}) != pid


async def test_children_come_back_after_their_origin_was_killed(manager: AgentManager) -> None:
    manager.register_tool("add", tools.add)
    await manager.dispatch("add", {"a": 1})
    zygote = manager.fork_server._process
    assert zygote is not None
    os.kill(zygote.pid, signal.SIGKILL)
    zygote.wait()

    async def answer() -> object:
        try:
            return await manager.dispatch("add", {"a": 2})
        except ToolCrashed:  # a child that was just about to die
            return None

    assert 3 in [await answer() for _ in range(4)]


async def test_memory_files_and_sockets_are_limited(manager: AgentManager) -> None:
    limits = WorkerLimits(memory_bytes=256 << 20, open_files=40, file_bytes=1 << 20, network=True)
    for name in ("allocate", "write_file", "open_sockets"):
        manager.register_tool(name, getattr(tools, name), limits=limits)

    async def error(name: str, **arguments: int) -> str:
        try:
            return str(await manager.dispatch(name, arguments))
        except AegisError as failed:
            return failed.reason

    assert await error("allocate", mebibytes=32) == str(32 << 20)
    assert await error("allocate", mebibytes=512) == "TOOL_MEMORY_EXCEEDED"
    assert await error("write_file", mebibytes=2) == "TOOL_FILE_TOO_LARGE"
    assert await error("open_sockets", count=64) == "TOOL_FILES_EXCEEDED"


@pytest.mark.long
async def test_cpu_time_is_limited_per_call(manager: AgentManager) -> None:
    manager.register_tool("spin", tools.spin, limits=WorkerLimits(cpu_s=1))

    with pytest.raises(ToolCpuExceeded) as caught:
        await manager.dispatch("spin", {}, timeout=60)

    assert caught.value.metadata["limit"] == "1"


async def test_a_child_is_replaced_after_its_calls(manager: AgentManager) -> None:
    limits = WorkerLimits(recycle_calls=2)
    manager.register_tool("own_pid", tools.own_pid, concurrency=1, limits=limits)

    pids = [await manager.dispatch("own_pid", {}) for _ in range(4)]

    assert len(set(pids)) >= 2


async def test_a_child_whose_memory_grew_is_replaced(manager: AgentManager) -> None:
    limits = WorkerLimits(recycle_growth_bytes=1 << 20)
    manager.register_tool("keep", tools.keep, concurrency=1, limits=limits)

    pids = [await manager.dispatch("keep", {"mebibytes": 8}) for _ in range(4)]

    assert len(set(pids)) >= 2


async def test_children_see_no_settings_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_AGENT_AUDIT_KEY", "/secret")
    async with AgentManager() as manager:
        manager.register_tool("visible_settings", tools.visible_settings)

        assert await manager.dispatch("visible_settings", {}) == []


async def test_a_full_queue_refuses_with_a_time_to_come_back(manager: AgentManager) -> None:
    manager.register_tool("slow", tools.slow, concurrency=1, queue_size=1)
    await manager.warm_up()
    running = [asyncio.create_task(manager.dispatch("slow", {"seconds": 0.5})) for _ in range(2)]
    await asyncio.sleep(0.05)

    with pytest.raises(ToolQueueFull) as caught:
        await manager.dispatch("slow", {"seconds": 0})

    assert caught.value.retry_after is not None
    assert await asyncio.gather(*running) == [0.5, 0.5]


async def test_waiting_for_a_slot_uses_up_the_deadline(manager: AgentManager) -> None:
    manager.register_tool("slow", tools.slow, concurrency=1)
    await manager.warm_up()
    running = asyncio.create_task(manager.dispatch("slow", {"seconds": 1}))
    await asyncio.sleep(0.05)

    with pytest.raises(ToolTimeout) as caught:
        await manager.dispatch("slow", {"seconds": 0}, timeout=0.2)

    assert caught.value.metadata["phase"] == "queue"
    assert await running == 1


async def test_no_more_children_than_calls_and_one_spare(manager: AgentManager) -> None:
    manager.register_tool("own_pid_slowly", tools.own_pid_slowly, concurrency=2, queue_size=20)

    pids = await asyncio.gather(*(manager.dispatch("own_pid_slowly", {}) for _ in range(12)))

    assert len(set(pids)) <= 3


async def test_many_kills_in_a_row_leave_a_working_pool(manager: AgentManager) -> None:
    manager.register_tool("slow", tools.slow, concurrency=2)

    async def outcome(seconds: float) -> str:
        try:
            return str(await manager.dispatch("slow", {"seconds": seconds}, timeout=0.3 if seconds else 60))
        except AegisError as error:
            return error.reason

    got = await asyncio.gather(*(outcome(600 if i % 2 else 0) for i in range(12)))

    assert got == ["0.0", "TOOL_TIMEOUT"] * 6


async def test_closing_ends_every_process(tmp_path: Path, is_alive: IsAlive, wait_until: WaitUntil) -> None:
    pid_file = tmp_path / "pid"
    async with AgentManager() as manager:
        manager.register_tool("spin", tools.spin)
        manager.register_tool("own_pid", tools.own_pid)
        pids = [await manager.dispatch("own_pid", {})]
        call = asyncio.create_task(manager.dispatch("spin", {"pid_file": str(pid_file)}))
        await wait_until(lambda: _written(pid_file))
        zygote = manager.fork_server._process
        assert zygote is not None
        pids += [int(pid_file.read_text()), zygote.pid]

    assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], ToolCrashed)
    await wait_until(lambda: not any(map(is_alive, pids)))
