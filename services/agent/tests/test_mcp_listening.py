"""Who listens over MCP for changes of the tools: what is told, to whom, how often, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from mcp import MCPError
from mcp.shared.subscriptions import ToolsListChanged
from services.agent.tests.mcp_agent import Agent, running

from aegis_agent.adapters.mcp.listening import MAX_LISTENERS
from aegis_agent.domain.call import Caller
from aegis_agent.domain.tool import Tool
from aegis_agent.testing import mcp_tools

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANG_GUARD_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    async with running(tmp_path_factory.mktemp("listening")) as made:
        yield made


async def test_a_change_of_the_tools_is_told(agent: Agent) -> None:
    async with agent.client() as client, client.listen(tools_list_changed=True) as changes:
        agent.manager.register_tool("newcomer", mcp_tools.add)
        event = await asyncio.wait_for(anext(aiter(changes)), 30)
        agent.manager.registry.remove("newcomer")

    assert isinstance(event, ToolsListChanged)


async def test_one_caller_listens_a_few_times_at_once_and_another_is_not_in_its_way(agent: Agent) -> None:
    token = agent.mesh.token(sub="dora", roles=["operator"], tenant="acme")
    mine: dict[str, str] = {"authorization": f"Bearer {token}"}
    async with AsyncExitStack() as listening:
        client = await listening.enter_async_context(agent.client(headers=mine))
        last = await listening.enter_async_context(AsyncExitStack())
        await last.enter_async_context(client.listen(tools_list_changed=True))
        for _ in range(MAX_LISTENERS - 1):
            await listening.enter_async_context(client.listen(tools_list_changed=True))
        with pytest.raises(MCPError) as caught:
            await listening.enter_async_context(client.listen(tools_list_changed=True))
        async with agent.client() as other, other.listen(tools_list_changed=True):
            pass
        await last.aclose()

        async def listens() -> bool:
            try:
                async with client.listen(tools_list_changed=True):
                    return True
            except MCPError:
                return False

        async with asyncio.timeout(HANG_GUARD_S):
            while not await listens():  # noqa: ASYNC110  # the server hears of the end a moment later
                await asyncio.sleep(0.05)

    assert "TOO_MANY_LISTENERS" == caught.value.error.data["details"][0]["reason"]


async def test_changes_of_another_tenants_tools_are_not_told(agent: Agent) -> None:
    def tool_of(tenant: str) -> Tool:
        found = agent.manager.registry.find("add", caller=Caller()).tool
        return replace(found, spec=replace(found.spec, name="own", tenants=frozenset({tenant})))

    async with agent.client() as client, client.listen(tools_list_changed=True) as changes:
        told = aiter(changes)
        first = asyncio.ensure_future(anext(told))
        agent.manager.registry.swap(tool_of("blue"), tenant="blue")
        done, _ = await asyncio.wait({first}, timeout=0.5)
        agent.manager.registry.swap(tool_of("default"), tenant="default")
        await asyncio.wait_for(first, 30)
        for tenant in ("blue", "default"):
            agent.manager.registry.remove("own", owner=tenant)

    assert not done


async def test_who_listens_for_changes_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    async with AsyncExitStack() as listening:
        async with asyncio.timeout(30), running(tmp_path, drain_s=300) as agent:
            client = await listening.enter_async_context(agent.client())
            changes = await listening.enter_async_context(client.listen(tools_list_changed=True))

        assert [] == [event async for event in changes]
