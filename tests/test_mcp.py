"""MCP through the real gateway: from 401 to a tool call, as a host without a client certificate does it."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client, MCPError, StdioServerParameters

from aegis_agent.testing import mcp_tools
from aegis_client.profiles import Profile, write_profiles
from aegis_common.testing.pki import ISSUER
from aegis_common.testing.waiting import until
from mcp_support import Stack, mcp_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

METADATA = "/.well-known/oauth-protected-resource/mcp"
HANG_GUARD_S = 60.0
AEGIS = str(Path(sys.executable).with_name("aegis"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with mcp_stack(tmp_path_factory.mktemp("mcp"), mcp_tools.TOOLS) as made:
        yield made


async def test_a_host_learns_from_401_where_to_get_a_token(stack: Stack) -> None:
    refused = await stack.post(json={"jsonrpc": "2.0", "id": 1, "method": "server/discover"})
    async with stack.http() as http:
        metadata = await http.get(stack.people + METADATA)
        root = await http.get(stack.people + METADATA.removesuffix("/mcp"))

    assert 401 == refused.status_code
    assert f'Bearer resource_metadata="{stack.people}{METADATA}"' == refused.headers["www-authenticate"]
    assert {
        "resource": f"{stack.people}/mcp",
        "resource_name": "AEGIS",
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
    } == metadata.json()
    assert metadata.json() == root.json()


@pytest.mark.parametrize(
    "fault", [{"aud": "another"}, {"iss": "https://evil.example.com"}, {"ttl": timedelta(minutes=-5)}]
)
async def test_a_token_that_is_not_for_us_is_refused_with_the_way_to_another(
    stack: Stack, fault: dict[str, Any]
) -> None:
    token = stack.mesh.token(**fault)
    refused = await stack.post(token=token, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})

    challenge = f'Bearer error="invalid_token", resource_metadata="{stack.people}{METADATA}"'
    assert (401, challenge) == (refused.status_code, refused.headers["www-authenticate"])


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy", "auto"])
async def test_a_token_opens_the_tools(stack: Stack, mode: str) -> None:
    async with stack.client(stack.mesh.token(), mode=mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("add", {"a": 1, "b": 2})

    assert "add" in names
    assert "for_admins" not in names
    assert "3" == result.content[0].text


async def test_a_certificate_opens_them_too(stack: Stack) -> None:
    async with stack.client(account="admin") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}

    assert "for_admins" in names


async def test_a_viewers_token_does_not_call(stack: Stack) -> None:
    async with stack.client(stack.mesh.token(roles=["viewer"])) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("add", {"a": 1})

    assert "ROLE_MISSING" == caught.value.error.data["details"][0]["reason"]


async def test_progress_comes_through_while_the_tool_runs(stack: Stack) -> None:
    seen: list[float] = []
    early = asyncio.Event()

    async def take(done: float, total: float | None, message: str | None) -> None:
        seen.append(done)
        early.set()

    async with stack.client(stack.mesh.token()) as client:
        asking = asyncio.ensure_future(client.call_tool("waits", {}, progress_callback=take))
        await asyncio.wait_for(early.wait(), 30)
        assert not asking.done()
        assert "released" == (await client.call_tool("release", {})).content[0].text
        await asyncio.wait_for(asking, 30)

    assert [1, 2] == seen


async def test_a_host_that_goes_away_stops_the_tool(stack: Stack, tmp_path: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    async with stack.client(stack.mesh.token()) as client:
        asking = asyncio.ensure_future(
            client.call_tool("watched", {"begun": str(begun), "ended": str(ended)})
        )
        await until(begun.exists, timeout_s=HANG_GUARD_S)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(ended.exists, timeout_s=HANG_GUARD_S)


def profile(stack: Stack, folder: Path) -> Path:
    token = folder / "token"
    token.write_text(stack.mesh.token(sub="carol"))
    listen = stack.gateway.settings.people_listen
    entry = Profile(address=listen, ca=stack.mesh.ca.bundle, server_name="localhost", token_file=token)
    write_profiles(folder / "profiles.toml", {"people": entry}, default="people")
    return folder / "profiles.toml"


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy", "auto"])
async def test_a_local_host_uses_the_tools_over_stdio(stack: Stack, tmp_path: Path, mode: str) -> None:
    seen: list[float] = []

    async def take(done: float, total: float | None, message: str | None) -> None:
        seen.append(done)

    arguments = ["--profile-file", str(profile(stack, tmp_path)), "mcp", "stdio"]
    server = StdioServerParameters(command=AEGIS, args=arguments)
    made: Any = Client(server, mode=mode, cache=None)
    async with made as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("add", {"a": 1, "b": 2})
        await client.call_tool("steps", {}, progress_callback=take)
        begun, ended = tmp_path / "begun", tmp_path / "ended"
        asking = asyncio.ensure_future(
            client.call_tool("watched", {"begun": str(begun), "ended": str(ended)})
        )
        await until(begun.exists, timeout_s=HANG_GUARD_S)
        asking.cancel()
        await until(ended.exists, timeout_s=HANG_GUARD_S)

    assert "add" in names
    assert "3" == result.content[0].text
    assert [1, 2, 3] == seen


async def test_over_stdio_a_refusal_says_what_is_wrong(stack: Stack, tmp_path: Path) -> None:
    file = profile(stack, tmp_path)
    (tmp_path / "token").write_text(stack.mesh.token(ttl=timedelta(minutes=-5)))
    process = await asyncio.create_subprocess_exec(
        AEGIS, "--profile-file", str(file), "mcp", "stdio",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    lines = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\nno json\n'
    output, _ = await asyncio.wait_for(process.communicate(lines), HANG_GUARD_S)
    answers = sorted((json.loads(line) for line in output.splitlines()), key=lambda answer: answer["id"] or 0)

    assert [-32700, -32000] == [answer["error"]["code"] for answer in answers]
    assert "is the token of the profile still good?" in answers[1]["error"]["message"]
    assert "profile 'people'" in answers[1]["error"]["message"]


TASKS = "io.modelcontextprotocol/tasks"


async def ask(
    stack: Stack, method: str, *, token: str = "", knows: bool = True, **params: Any
) -> dict[str, Any]:
    """Send one request as a client of 2026-07-28 that may know tasks, and return the whole answer."""
    capabilities: dict[str, Any] = {"extensions": {TASKS: {}}} if knows else {}
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
        "mcp-name": params.get("taskId") or params.get("name", ""),
    }
    answer = await stack.post(token=token or stack.mesh.token(), json=body, headers=headers)
    found: dict[str, Any] = answer.json()
    return found


async def ended(stack: Stack, task: str) -> dict[str, Any]:
    async with asyncio.timeout(HANG_GUARD_S):
        while True:
            found: dict[str, Any] = (await ask(stack, "tasks/get", taskId=task))["result"]
            if found["status"] != "working":
                return found
            await asyncio.sleep(0.05)


async def test_a_call_of_a_long_tool_is_a_task_for_those_who_know_tasks(stack: Stack) -> None:
    made = (await ask(stack, "tools/call", name="shout", arguments={"text": "hello", "data": "AAAA"}))[
        "result"
    ]
    plain = (await ask(stack, "tools/call", knows=False, name="shout", arguments={"text": "hi"}))["result"]
    found = await ended(stack, made["taskId"])

    assert ("task", "working") == (made["resultType"], made["status"])
    assert "HI" == plain["content"][0]["text"]
    assert ("completed", "HELLO!!!", "HELLO!!!") == (
        found["status"],
        found["result"]["content"][0]["text"],
        found["result"]["structuredContent"],
    )


async def test_what_goes_wrong_in_a_task_is_its_result(stack: Stack) -> None:
    made = (await ask(stack, "tools/call", name="shout", arguments={"text": "quiet"}))["result"]
    found = await ended(stack, made["taskId"])
    bad = (await ask(stack, "tools/call", name="shout", arguments={"text": 1}))["result"]

    assert ("completed", True) == (found["status"], found["result"]["isError"])
    assert "on purpose" in found["result"]["content"][0]["text"]
    assert bad["isError"]


async def test_a_task_is_its_tenants_alone(stack: Stack) -> None:
    made = (await ask(stack, "tools/call", name="shout", arguments={"text": "mine"}))["result"]
    other = stack.mesh.token(tenant="acme")
    answers = [
        await ask(stack, method, token=other, taskId=made["taskId"])
        for method in ("tasks/get", "tasks/update", "tasks/cancel")
    ]
    stranger = await ask(stack, "tasks/get", knows=False, taskId=made["taskId"])

    assert [-32602] * 3 == [answer["error"]["code"] for answer in answers]
    assert -32021 == stranger["error"]["code"]


async def test_a_body_beyond_the_limit_is_refused(stack: Stack) -> None:
    context = ssl.create_default_context(cafile=str(stack.mesh.ca.bundle))
    reader, writer = await asyncio.open_connection(
        *stack.gateway.settings.people_listen.split(":"), ssl=context, server_hostname="localhost"
    )
    head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {stack.mesh.token()}\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {13 << 20}\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.readline(), 30)
    writer.close()

    assert b"HTTP/1.1 413 Payload Too Large\r\n" == answer


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/x/infer"])
async def test_inference_paths_need_credentials_and_reach_the_agent(stack: Stack, path: str) -> None:
    nobody, somebody = await stack.post(path), await stack.post(path, token=stack.mesh.token())

    assert (401, 404) == (nobody.status_code, somebody.status_code)
    assert "no such path" == somebody.json()["message"]
