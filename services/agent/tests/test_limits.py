"""Limits of a child: each becomes a precise error of that one call, with the limit and what was measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.domain.call import NOBODY, Call
from aegis_agent.domain.errors import ToolCrashed, ToolFailed, ToolOutputTooLarge
from aegis_agent.domain.exceeded import (
    ToolCpuExceeded,
    ToolFilesExceeded,
    ToolFileTooLarge,
    ToolLimitExceeded,
    ToolMemoryExceeded,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakePool = Callable[..., WorkerPool]
MIB = 1 << 20
GUARD_S = 60


async def run(pool: WorkerPool, **arguments: Any) -> Any:
    """Run a call; its deadline is only a guard against hanging."""
    call = Call(arguments=arguments, caller=NOBODY, deadline=asyncio.get_running_loop().time() + GUARD_S)
    async with asyncio.timeout_at(call.deadline):
        return await pool.run(call)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("hostile:fill_memory", {}),
        ("hostile:big_array", {"mebibytes": 512}),
        ("tools:allocate", {"mebibytes": 512}),
        ("hostile:touch_and_crash", {"mebibytes": 120}),
    ],
)
async def test_memory_beyond_the_limit_says_how_much_there_was(
    make_pool: MakePool, tool: str, arguments: dict[str, Any]
) -> None:
    pool = make_pool(tool, WorkerLimits(memory_bytes=128 * MIB))

    with pytest.raises(ToolMemoryExceeded) as caught:
        await run(pool, **arguments)

    error = caught.value
    measured = int(error.metadata.pop("measured"))
    assert error.metadata == {"tool": "t", "limit": str(128 * MIB), "unit": "bytes"}
    assert error.reason == "TOOL_MEMORY_EXCEEDED"
    assert 0 < measured <= 160 * MIB


async def test_arguments_that_do_not_fit_are_the_error_of_their_call_alone(make_pool: MakePool) -> None:
    pool = make_pool("hostile:take", WorkerLimits(memory_bytes=48 * MIB))

    with pytest.raises(ToolMemoryExceeded):
        await run(pool, data=bytes(64 * MIB))

    assert await run(pool, data=b"123") == 3


async def test_a_tool_that_handles_want_of_memory_has_not_failed(make_pool: MakePool) -> None:
    pool = make_pool("hostile:caught_memory_error", WorkerLimits(memory_bytes=128 * MIB))

    assert await run(pool) == "managed"


async def test_an_error_about_memory_is_the_tools_own_without_a_limit(make_pool: MakePool) -> None:
    pool = make_pool("tools:allocate", WorkerLimits(memory_bytes=None))

    with pytest.raises(ToolFailed) as caught:
        await run(pool, mebibytes=1 << 40)

    assert caught.value.metadata["error"] in ("MemoryError", "OverflowError")


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("tools:spin", {}), ("hostile:spin_ignoring", {}), ("hostile:spin_in_threads", {"count": 2})],
)
async def test_cpu_time_beyond_the_limit_says_how_much_it_was(
    make_pool: MakePool, tool: str, arguments: dict[str, Any]
) -> None:
    pool = make_pool(tool, WorkerLimits(cpu_s=0.3))

    with pytest.raises(ToolCpuExceeded) as caught:
        await run(pool, **arguments)

    error = caught.value
    assert float(error.metadata.pop("measured")) >= 0.3
    assert error.metadata == {"tool": "t", "limit": "0.3", "unit": "s"}
    assert error.reason == "TOOL_CPU_EXCEEDED"


async def test_cpu_time_counts_per_call(make_pool: MakePool) -> None:
    pool = make_pool("tools:own_pid_slowly", WorkerLimits(cpu_s=0.5))

    pids = {await run(pool) for _ in range(5)}

    assert len(pids) == 1


async def test_sleeping_uses_no_cpu_time(make_pool: MakePool) -> None:
    pool = make_pool("tools:slow", WorkerLimits(cpu_s=0.1))

    assert await run(pool, seconds=0.5) == 0.5


@pytest.mark.parametrize("tool", ["leak_descriptors", "open_at_once"])
async def test_too_many_files_say_how_many_were_open(make_pool: MakePool, tool: str) -> None:
    pool = make_pool(f"hostile:{tool}", WorkerLimits(open_files=40))

    with pytest.raises(ToolFilesExceeded) as caught:
        await run(pool, count=64)

    assert caught.value.metadata == {"tool": "t", "limit": "40", "measured": "40", "unit": "descriptors"}


async def test_a_file_that_is_too_large_says_so(make_pool: MakePool) -> None:
    pool = make_pool("tools:write_file", WorkerLimits(file_bytes=MIB))

    with pytest.raises(ToolFileTooLarge) as caught:
        await run(pool, mebibytes=2)

    assert caught.value.metadata == {"tool": "t", "limit": str(MIB), "measured": str(MIB), "unit": "bytes"}


async def test_output_beyond_the_limit_says_how_much_it_was(make_pool: MakePool) -> None:
    pool = make_pool("tools:make_bytes", WorkerLimits(output_bytes=1000))

    with pytest.raises(ToolOutputTooLarge) as caught:
        await run(pool, size=5000)

    assert caught.value.metadata["max_bytes"] == "1000"
    assert int(caught.value.metadata["size_bytes"]) > 5000
    assert await run(pool, size=5) == bytes(5)


@pytest.mark.parametrize(
    ("tool", "arguments", "message", "metadata"),
    [
        ("hostile:stop", {}, "was stopped by SIGSTOP", {"signal": "SIGSTOP"}),
        ("hostile:abort", {}, "ended by signal SIGABRT", {"signal": "SIGABRT"}),
        ("tools:crash", {}, "ended by signal SIGSEGV", {"signal": "SIGSEGV"}),
        ("tools:leave", {}, "ended with exit status 3", {"exit_status": "3"}),
        ("hostile:close_everything", {}, "closed its connection", {}),
        ("hostile:become", {"program": "/bin/sleep"}, "became another program, 'sleep'", {}),
        ("hostile:write_to_connection", {"text": "what is this"}, "sent what is no frame", {}),
        (
            "hostile:write_to_connection",
            {"text": "AEG1\0\0\0\x1a\0\0\0\0" + '{"value":{"x":1},"blobs":[]}'[:26]},
            "sent what is no frame",
            {},
        ),
    ],
)
async def test_a_child_that_breaks_off_says_how(
    make_pool: MakePool, tool: str, arguments: dict[str, Any], message: str, metadata: dict[str, str]
) -> None:
    pool = make_pool(tool, WorkerLimits(may_fork=True))

    with pytest.raises(ToolCrashed) as caught:
        await run(pool, **arguments)

    caught.value.metadata.pop("rss_bytes", None)
    assert message in caught.value.message
    assert caught.value.metadata == {"tool": "t", **metadata}


async def test_nobody_elses_call_suffers(make_pool: MakePool) -> None:
    """Two calls of one tool at once: one goes beyond a limit, the other comes to its end."""
    pool = make_pool("tools:allocate", WorkerLimits(memory_bytes=128 * MIB), size=2)
    slow = make_pool("tools:slow", WorkerLimits(cpu_s=5))
    other = asyncio.create_task(run(slow, seconds=0.5))

    outcomes = await asyncio.gather(
        *(run(pool, mebibytes=size) for size in (1, 512, 2, 512, 3)), return_exceptions=True
    )

    assert [isinstance(item, ToolLimitExceeded) for item in outcomes] == [False, True, False, True, False]
    assert await other == 0.5
