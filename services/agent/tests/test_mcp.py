"""MCP over the HTTP listener with the official client: lists, calls, errors, progress, stops, changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import MCPError
from services.agent.tests.mcp_agent import Agent, running

from aegis_agent.testing import mcp_tools
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


DISPATCH = "/aegis.agent.v1.AgentService/Dispatch"
HANG_GUARD_S = 60.0
ERAS = pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    async with running(tmp_path_factory.mktemp("mcp")) as made:
        yield made


@ERAS
async def test_the_list_has_every_tool_with_its_schemas_page_by_page(agent: Agent, mode: str) -> None:
    async with agent.client(mode=mode) as client:
        pages, cursor = [], None
        while True:
            found = await client.list_tools(cursor=cursor)
            pages.append(found.tools)
            cursor = found.next_cursor
            if cursor is None:
                break

    tools = {tool.name: tool for page in pages for tool in page}
    assert len(pages) > 1
    assert sorted(mcp_tools.TOOLS.keys() - {"for_admins"}) == list(tools)
    assert "object" == tools["add"].input_schema["type"]
    assert ["a", "b"] == list(tools["add"].input_schema["properties"])


async def test_the_list_is_the_callers_own(agent: Agent) -> None:
    async def names(account: str) -> set[str]:
        async with agent.client(account) as client:
            found, cursor = set(), None
            while True:
                listed = await client.list_tools(cursor=cursor)
                found |= {tool.name for tool in listed.tools}
                cursor = listed.next_cursor
                if cursor is None:
                    return found

    assert "for_admins" not in await names("sdk")
    assert "for_admins" in await names("admin")


@ERAS
async def test_a_call_gives_text_and_structured_content(agent: Agent, mode: str) -> None:
    async with agent.client(mode=mode) as client:
        number = await client.call_tool("add", {"a": 2, "b": 3})
        whole = await client.call_tool("basket", {"names": ["x", "y"]})

    assert "5" == number.content[0].text
    assert (5 if mode != "legacy" else {"result": 5}) == number.structured_content
    assert {"items": ["x", "y"], "total": 2} == whole.structured_content
    assert not number.is_error


@ERAS
async def test_media_are_blocks_of_their_own_kind(agent: Agent, mode: str) -> None:
    async with agent.client(mode=mode) as client:
        picture = (await client.call_tool("picture", {})).content
        mixed = (await client.call_tool("mixed", {})).content

    assert [("image", "image/png")] == [(block.type, block.mime_type) for block in picture]
    assert ["text", "image", "audio", "resource"] == [block.type for block in mixed]
    assert "plain" == mixed[3].resource.text


async def test_base64_in_the_arguments_is_bytes_for_the_tool(agent: Agent) -> None:
    async with agent.client() as client:
        result = await client.call_tool("size_of", {"data": "AAAA"})

    assert 3 == result.structured_content


@ERAS
async def test_what_goes_wrong_in_a_tool_is_a_result(agent: Agent, mode: str) -> None:
    async with agent.client(mode=mode) as client:
        bad = await client.call_tool("add", {"a": "two"})
        failed = await client.call_tool("fail", {})
        late = await client.call_tool("too_slow", {})

    reasons = [result.meta["aegis.dev/error"]["details"][0]["reason"] for result in (bad, failed, late)]
    assert [True] * 3 == [result.is_error for result in (bad, failed, late)]
    assert ["INVALID_TOOL_INPUT", "TOOL_FAILED", "TOOL_TIMEOUT"] == reasons
    assert "a: " in bad.content[0].text
    assert "on purpose" in failed.content[0].text


@ERAS
async def test_what_is_no_tool_for_the_caller_is_an_error_of_the_request(agent: Agent, mode: str) -> None:
    async with agent.client(mode=mode) as client:
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("no_such_tool", {})
        with pytest.raises(MCPError) as forbidden:
            await client.call_tool("for_admins", {})

    assert -32602 == unknown.value.error.code
    assert "UNKNOWN_TOOL" == unknown.value.error.data["details"][0]["reason"]
    assert "TOOL_NOT_ALLOWED" == forbidden.value.error.data["details"][0]["reason"]


@ERAS
async def test_progress_comes_while_the_tool_runs(agent: Agent, mode: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def take(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    async with agent.client(mode=mode) as client:
        await client.call_tool("steps", {}, progress_callback=take)

    assert [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")] == seen


async def test_log_lines_come_when_they_are_asked_for(agent: Agent) -> None:
    seen: list[str] = []

    async def take(params: Any) -> None:
        seen.append(f"{params.level} {params.logger}: {params.data}")

    async with agent.client(logging_callback=take, log_level="info") as client:
        await client.call_tool("steps", {})

    assert ["info steps: begun"] == seen


@ERAS
async def test_a_client_that_goes_away_stops_the_tool(agent: Agent, tmp_path: Path, mode: str) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"

    async with agent.client(mode=mode) as client:
        asking = asyncio.ensure_future(
            client.call_tool("watched", {"begun": str(begun), "ended": str(ended)})
        )
        await until(begun.exists, timeout_s=HANG_GUARD_S)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(ended.exists, timeout_s=HANG_GUARD_S)


async def test_a_child_is_killed_when_the_client_goes_away(
    agent: Agent, tmp_path: Path, is_alive: Callable[[int], bool]
) -> None:
    pid_file = tmp_path / "pid"
    async with agent.client() as client:
        asking = asyncio.ensure_future(client.call_tool("spin", {"pid_file": str(pid_file)}))
        await until(lambda: pid_file.exists() and bool(pid_file.read_text()), timeout_s=HANG_GUARD_S)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: not is_alive(int(pid_file.read_text())), timeout_s=HANG_GUARD_S)


@ERAS
async def test_what_a_tool_keeps_is_a_resource_of_the_tenant_alone(agent: Agent, mode: str) -> None:
    text = f"kept in {mode}"
    token = agent.mesh.token(tenant="acme")
    async with agent.client(mode=mode) as client:
        content = (await client.call_tool("keep", {"text": text})).content
        link = content[-1]
        listed = [resource.uri for resource in (await client.list_resources()).resources]
        read = (await client.read_resource(link.uri)).contents[0]
        size = await client.call_tool("size_of", {"data": link.uri})
    async with agent.client(mode=mode, headers={"authorization": f"Bearer {token}"}) as other:
        with pytest.raises(MCPError) as caught:
            await other.read_resource(link.uri)

    assert "resource_link" == link.type
    assert link.uri in listed
    assert (text, "text/plain") == (read.text, read.mime_type)
    assert str(len(text)) == size.content[0].text
    assert "UNKNOWN_ARTIFACT" == caught.value.error.data["details"][0]["reason"]


async def test_a_result_that_is_too_large_becomes_an_artifact(agent: Agent) -> None:
    async with agent.client() as client:
        link = (await client.call_tool("large", {"size": 5 << 20})).content[0]

    assert "resource_link" == link.type
    assert link.uri.startswith("aegis://artifacts/")


async def test_a_call_is_audited_as_dispatch_with_the_tools_name(agent: Agent) -> None:
    token = agent.mesh.token(sub="carol", roles=["operator"], tenant="acme")
    async with agent.client(headers={"authorization": f"Bearer {token}"}) as client:
        await client.call_tool("add", {"a": 1})
        await client.call_tool("fail", {})
    await asyncio.sleep(0.1)

    mine = [record for record in agent.audited() if record["principal"]["subject"] == "carol"]
    calls = [
        (record["code"], record["reason"], record["notes"]) for record in mine if record["method"] == DISPATCH
    ]
    assert [
        ("OK", "", {"mcp": "tools/call", "tool": "add"}),
        ("FAILED_PRECONDITION", "TOOL_FAILED", {"mcp": "tools/call", "tool": "fail"}),
    ] == calls


@ERAS
async def test_who_may_call_nothing_is_shown_nothing_to_call(agent: Agent, mode: str) -> None:
    async with agent.client("viewer", mode=mode) as client:
        listed = await client.list_tools()
        with pytest.raises(MCPError) as caught:
            await client.call_tool("add", {"a": 1})

    assert (listed.tools, listed.next_cursor) == ([], None)
    assert "ROLE_MISSING" == caught.value.error.data["details"][0]["reason"]


async def test_discovery_names_the_versions_and_what_there_is(agent: Agent) -> None:
    async with agent.client(mode="auto") as client:
        assert "2026-07-28" == client.protocol_version
        assert client.server_capabilities.tools.list_changed
        assert "AEGIS" == client.server_info.title
