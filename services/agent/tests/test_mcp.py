"""MCP over the HTTP listener with the official client: lists, calls, errors, progress, stops, changes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import ToolsListChanged
from pydantic_settings import SettingsConfigDict

from aegis_agent import AgentManager
from aegis_agent.adapters.artifacts.access import TenantArtifacts
from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.adapters.http.listener import HttpDoor
from aegis_agent.adapters.mcp.door import McpDoor
from aegis_agent.domain.artifacts import ArtifactPolicy
from aegis_agent.testing import mcp_tools
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.audit import lines
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until
from aegis_common.tls import server_dns

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = "https://aegis.example.org"
DISPATCH = "/aegis.agent.v1.AgentService/Dispatch"
HANG_GUARD_S = 60.0
ERAS = pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="AEGIS_AGENT_")


class Agent:
    """An agent with the HTTP listener only, and clients of it."""

    def __init__(self, mesh: Mesh, manager: AgentManager, port: int) -> None:
        self.mesh, self.manager, self.port = mesh, manager, port

    def http(self, account: str = "sdk", **headers: str) -> httpx2.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.mesh.ca.bundle))
        tls = self.mesh.tls(account)
        context.load_cert_chain(tls.cert, tls.key)
        return httpx2.AsyncClient(
            verify=context, trust_env=False, headers=headers, timeout=60, event_hooks={"request": [_pin]}
        )

    @asynccontextmanager
    async def client(
        self,
        account: str = "sdk",
        *,
        mode: str = "2026-07-28",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:  # the answers are unions; a test knows which it wants
        async with self.http(account, **(headers or {})) as http:
            transport = streamable_http_client(f"https://127.0.0.1:{self.port}/mcp", http_client=http)
            async with Client(transport, mode=mode, cache=None, **options) as client:
                yield client

    def audited(self) -> list[dict[str, Any]]:
        files = sorted((self.mesh.folder / "audit" / "agent").glob("*.jsonl"))
        return [line for file in files for line in lines(file) if line["kind"] == "call"]


async def _pin(request: httpx2.Request) -> None:
    request.extensions["sni_hostname"] = server_dns("agent", "aegis")


@asynccontextmanager
async def running(folder: Path, *, drain_s: float = 0.2) -> AsyncIterator[Agent]:
    mesh = Mesh(folder)
    store = StoredArtifacts(ObjectStore.open(f"file://{mesh.folder / 'store'}"), ArtifactPolicy())
    async with AgentManager(artifacts=lambda caller: TenantArtifacts(store, caller.tenant)) as manager:
        for name, tool in mcp_tools.TOOLS.items():
            manager.register_tool(name, tool)
        mcp = McpDoor(manager.registry, manager.dispatcher, public_url=PUBLIC, page_size=4, artifacts=store)
        http = HttpDoor(
            "127.0.0.1:0", mcp.routes(), max_connection_age=timedelta(minutes=10), on_leave=mcp.leave
        )
        settings = Settings(**mesh.service_kwargs("agent"), drain=timedelta(seconds=drain_s))
        async with mcp.running(), serving(settings, name="agent", add=[], doors=[http]):
            yield Agent(mesh, manager, http.port)


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


async def test_a_change_of_the_tools_is_told(agent: Agent) -> None:
    async with agent.client() as client, client.listen(tools_list_changed=True) as changes:
        agent.manager.register_tool("newcomer", mcp_tools.add)
        event = await asyncio.wait_for(anext(aiter(changes)), 30)
        agent.manager.registry.remove("newcomer")

    assert isinstance(event, ToolsListChanged)


async def test_who_listens_for_changes_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    async with AsyncExitStack() as listening:
        async with asyncio.timeout(30), running(tmp_path, drain_s=300) as agent:
            client = await listening.enter_async_context(agent.client())
            changes = await listening.enter_async_context(client.listen(tools_list_changed=True))

        assert [] == [event async for event in changes]


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
async def test_who_may_only_look_may_not_call(agent: Agent, mode: str) -> None:
    async with agent.client("viewer", mode=mode) as client:
        listed = await client.list_tools()
        with pytest.raises(MCPError) as caught:
            await client.call_tool("add", {"a": 1})

    assert listed.tools
    assert "ROLE_MISSING" == caught.value.error.data["details"][0]["reason"]


async def raw(agent: Agent, body: Any, account: str = "sdk", **headers: str) -> httpx2.Response:
    base = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    async with agent.http(account) as http:
        return await http.post(f"https://127.0.0.1:{agent.port}/mcp", json=body, headers=base | headers)


def call_body(**params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


async def test_nobody_gets_401_and_a_bad_token_is_called_one(agent: Agent) -> None:
    nobody = await raw(agent, call_body(name="add"), "gateway")
    bad = await raw(agent, call_body(name="add"), "gateway", authorization="Bearer x.y.z")

    assert (401, "Bearer") == (nobody.status_code, nobody.headers["www-authenticate"])
    answer = nobody.json()
    assert (7, "NO_CREDENTIALS") == (answer["id"], answer["error"]["data"]["details"][0]["reason"])
    assert (401, 'Bearer error="invalid_token"') == (bad.status_code, bad.headers["www-authenticate"])


async def test_a_header_cannot_stand_in_for_another_request(agent: Agent) -> None:
    """A viewer may list tools: a body that calls one must not pass as a list."""
    answer = await raw(
        agent,
        call_body(name="add", arguments={"a": 1}),
        "viewer",
        **{"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"},
    )

    assert 403 == answer.status_code


async def test_a_batch_is_refused(agent: Agent) -> None:
    answer = await raw(agent, [call_body(name="add", arguments={"a": 1})], "viewer")

    assert 400 == answer.status_code


@ERAS
async def test_a_message_that_would_take_long_to_read_is_refused_unread(agent: Agent, mode: str) -> None:
    headers = {} if mode == "legacy" else {"mcp-protocol-version": mode}
    many = await raw(agent, call_body(name="add", arguments={"a": [[]] * 30_000}), **headers)
    deep = await raw(
        agent, call_body(name="add", arguments={"a": json.loads("[" * 80 + "]" * 80)}), **headers
    )
    text = await raw(agent, call_body(name="basket", arguments={"names": ['[{,\\"' * 200_000]}))

    for answer in (many, deep):
        error = answer.json()["error"]
        assert (400, -32600) == (answer.status_code, error["code"])
        assert "MESSAGE_TOO_COMPLEX" == error["data"]["details"][0]["reason"]
        assert "as an artifact" in error["message"]
    assert 200 == text.status_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example.com"}, 403),
        ({"origin": PUBLIC, "host": "evil.example.com"}, 403),
        ({"host": "gateway.internal"}, 200),
        ({"origin": PUBLIC, "host": "aegis.example.org"}, 200),
    ],
)
async def test_pages_of_other_sites_and_other_names_are_refused(
    agent: Agent, headers: dict[str, str], status: int
) -> None:
    answer = await raw(agent, call_body(name="add", arguments={"a": 1}), **headers)

    assert status == answer.status_code


async def test_the_endpoint_takes_posts_only(agent: Agent) -> None:
    async with agent.http() as http:
        answer = await http.get(f"https://127.0.0.1:{agent.port}/mcp")

    assert (405, "POST") == (answer.status_code, answer.headers["allow"])


async def test_discovery_names_the_versions_and_what_there_is(agent: Agent) -> None:
    async with agent.client(mode="auto") as client:
        assert "2026-07-28" == client.protocol_version
        assert client.server_capabilities.tools.list_changed
        assert "AEGIS" == client.server_info.title
