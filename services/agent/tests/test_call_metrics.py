"""What is counted about calls, as a scrape shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aegis_agent import AgentManager
from aegis_agent.adapters.metrics import CallMetrics, observe_cache, observe_calls
from aegis_agent.domain.errors import ToolFailed, ToolQueueFull
from aegis_common.telemetry import Telemetry, setup_telemetry


@pytest.fixture
async def manager() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        yield made


@pytest.fixture
def telemetry(manager: AgentManager) -> Telemetry:
    made = setup_telemetry("agent")
    manager.dispatcher.measure = CallMetrics(made)
    observe_calls(made, manager.registry)
    observe_cache(made, manager.cache)
    return made


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    for line in telemetry.metrics_text().decode().splitlines():
        if line.startswith(name) and all(f'{key}="{text}"' in line for key, text in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return None


async def work(seconds: float = 0.0, fails: bool = False) -> int:
    await asyncio.sleep(seconds)
    if fails:
        raise ValueError
    return 1


async def test_calls_that_run_wait_fail_and_are_refused_are_counted(
    manager: AgentManager, telemetry: Telemetry
) -> None:
    manager.register_tool("work", work, concurrency=1, queue_size=1)
    await manager.dispatch("work", {})
    with pytest.raises(ToolFailed):
        await manager.dispatch("work", {"fails": True})
    calls = [asyncio.create_task(manager.dispatch("work", {"seconds": 600})) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(ToolQueueFull):
        await manager.dispatch("work", {})

    duration = "aegis_agent_call_execution_duration_seconds_count"
    assert value(telemetry, duration, tool="work", outcome="OK") == 1
    assert value(telemetry, duration, tool="work", outcome="TOOL_FAILED") == 1
    assert value(telemetry, "aegis_agent_call_queue_duration_seconds_count", tool="work") == 3
    refused = "aegis_agent_call_refused"
    assert value(telemetry, refused, tool="work", reason="TOOL_QUEUE_FULL") == 1
    assert value(telemetry, "aegis_agent_calls_running", tool="work") == 1
    assert value(telemetry, "aegis_agent_calls_waiting", tool="work") == 1

    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert value(telemetry, "aegis_agent_calls_running", tool="work") == 0
    assert value(telemetry, duration, tool="work", outcome="CANCELLED") == 1
    assert value(telemetry, refused, tool="work", reason="CANCELLED") == 1


async def test_hits_and_misses_of_the_cache_are_counted(manager: AgentManager, telemetry: Telemetry) -> None:
    manager.register_tool("work", work, cacheable=True)
    for _ in range(3):
        await manager.dispatch("work", {})

    names = ("hits", "misses", "entries")
    assert [value(telemetry, f"aegis_agent_cache_{name}") for name in names] == [2, 1, 1]
