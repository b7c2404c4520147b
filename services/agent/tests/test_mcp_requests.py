"""Requests to the MCP endpoint that no client of good will sends: who, what, how large, from where."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from services.agent.tests.mcp_agent import PUBLIC, Agent, call_body, raw, running

from aegis_agent.context import AsyncContext
from aegis_common.tls import server_dns

pytestmark = pytest.mark.asyncio(loop_scope="module")

ERAS = pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    async with running(tmp_path_factory.mktemp("requests")) as made:
        yield made


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


def modern(mode: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a request and its headers in the form of *mode*."""
    if mode == "legacy":
        return body, {}
    meta = {f"io.modelcontextprotocol/{key}": value for key, value in ENVELOPE.items()}
    headers = {"mcp-protocol-version": mode, "mcp-method": body["method"]}
    name = body["params"].get("name")
    if isinstance(name, str):
        headers["mcp-name"] = name
    return {**body, "params": {**body["params"], "_meta": meta}}, headers


ENVELOPE = {
    "protocolVersion": "2026-07-28",
    "clientCapabilities": {},
    "clientInfo": {"name": "x", "version": "1"},
}


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


async def last_record(agent: Agent, subject: str) -> tuple[str, str, dict[str, str]]:
    await asyncio.sleep(0.1)
    record = [item for item in agent.audited() if item["principal"]["subject"] == subject][-1]
    return record["code"], record["reason"], record.get("notes", {})


@ERAS
@pytest.mark.parametrize(
    ("body", "headers", "code", "reason"),
    [
        (request("no/such"), {}, "UNIMPLEMENTED", "MCP_METHOD_NOT_FOUND"),
        (request("tools/call", name="add", arguments=[]), {}, "INVALID_ARGUMENT", "MCP_INVALID_PARAMS"),
        (request("tools/call", name="add"), {"content-type": "text/plain"}, "INVALID_ARGUMENT", "HTTP_400"),
        (request("tools/call", name="add"), {"accept": "text/html"}, "INVALID_ARGUMENT", "HTTP_406"),
    ],
)
async def test_what_the_sdk_refuses_is_audited_as_refused(
    agent: Agent, mode: str, body: dict[str, Any], headers: dict[str, str], code: str, reason: str
) -> None:
    told, own = modern(mode, body)
    answer = await raw(agent, told, **own, **headers, authorization=f"Bearer {agent.mesh.token(sub='erin')}")

    assert "result" not in answer.text
    assert (code, reason) == (await last_record(agent, "erin"))[:2]


@ERAS
async def test_what_is_no_request_is_not_audited_as_a_call(agent: Agent, mode: str) -> None:
    body, headers = modern(mode, request("tools/call", name="add", arguments={"a": 1}))
    del body["id"]
    answer = await raw(agent, body, **headers, authorization=f"Bearer {agent.mesh.token(sub='fay')}")

    assert 202 == answer.status_code
    assert ("OK", "", {"mcp": "tools/call"}) == await last_record(agent, "fay")


@ERAS
async def test_what_nobody_foresaw_tells_the_client_nothing(
    agent: Agent, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(agent.manager.dispatcher, "dispatch", broken)
    body, headers = modern(mode, request("tools/call", name="add", arguments={"a": 1}))
    answer = await raw(agent, body, **headers, authorization=f"Bearer {agent.mesh.token(sub='gus')}")

    assert "secret" not in answer.text
    assert "internal error" in answer.text
    assert ("INTERNAL", "INTERNAL") == (await last_record(agent, "gus"))[:2]


async def test_a_name_without_end_is_cut_in_the_answer(agent: Agent) -> None:
    answer = await raw(agent, call_body(name="n" * 500_000))

    assert "UNKNOWN_TOOL" in answer.text
    assert len(answer.content) < 2000


async def test_the_session_of_somebody_else_is_none(agent: Agent) -> None:
    answer = await raw(
        agent, call_body(name="add", arguments={"a": 1}), **{"mcp-session-id": "somebody-elses"}
    )

    assert 200 == answer.status_code
    assert "mcp-session-id" not in answer.headers


LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'
LENGTH = b"content-length: %d\r\n" % len(LIST)
HEAD = b"host: x\r\naccept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"POST /mcp HTTP/1.1\r\n" + HEAD + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\n" + HEAD + LENGTH + b"content-length: 5\r\n\r\n" + LIST,
        b"POST /mcp HTTP/1.1\r\n" + HEAD + b"transfer-encoding: xchunked\r\n\r\n" + LIST,
        b"POST /mcp HTTP/1.1\r\n" + HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\n" + HEAD + LENGTH.replace(b":", b" :") + b"\r\n" + LIST,
        b"POST /mcp HTTP/1.1\r\n" + HEAD + b"x: a\r\n b\r\n" + LENGTH + b"\r\n" + LIST,
        b"POST /mcp HTTP/1.1\n" + HEAD.replace(b"\r", b"") + LENGTH.replace(b"\r", b"") + b"\n" + LIST,
        b"POST /mcp HTTP/1.1\r\n" + HEAD + b"x: a\0b\r\n" + LENGTH + b"\r\n" + LIST,
    ],
)
async def test_a_request_that_two_servers_could_read_in_two_ways_is_refused(
    agent: Agent, data: bytes
) -> None:
    tls = agent.mesh.tls("sdk")
    context = ssl.create_default_context(cafile=str(agent.mesh.ca.bundle))
    context.load_cert_chain(tls.cert, tls.key)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", agent.port, ssl=context, server_hostname=server_dns("agent", "aegis")
    )
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert 1 == answer.count(b"HTTP/1.1 ")


async def test_two_credentials_are_none(agent: Agent) -> None:
    async with agent.http() as http:
        token = f"Bearer {agent.mesh.token()}"
        headers = [("authorization", token), ("authorization", token), ("accept", "application/json")]
        answer = await http.post(f"https://127.0.0.1:{agent.port}/mcp", json=call_body(), headers=headers)

    assert 401 == answer.status_code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"\\uDC00": 1}', "half"),
    ],
)
@ERAS
async def test_what_only_python_reads_is_no_request(
    agent: Agent, mode: str, arguments: str, words: str
) -> None:
    body, headers = modern(mode, request("tools/call", name="add", arguments="@"))
    text = json.dumps(body).replace('"@"', arguments).encode()
    base = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    async with agent.http() as http:
        answer = await http.post(f"https://127.0.0.1:{agent.port}/mcp", content=text, headers=base | headers)

    assert 400 == answer.status_code
    assert "MESSAGE_NOT_JSON" in answer.text
    assert words in answer.json()["error"]["message"]


async def half_told(context: AsyncContext) -> str:
    context.log.info("half \ud800")
    await context.progress(math.nan, 2, "no number")
    await context.progress(1, math.inf, "half \ud800")
    await context.progress(2, 2)
    return "done"


async def half() -> dict[str, str]:
    return {"a": "half \ud800"}


async def half_an_error() -> None:
    raise ValueError("half \ud800")


@pytest_asyncio.fixture(loop_scope="module")
async def halves(agent: Agent) -> AsyncIterator[Agent]:
    tools = (half_told, half, half_an_error)
    for tool in tools:
        agent.manager.register_tool(tool.__name__, tool)
    yield agent
    for tool in tools:
        await agent.manager.remove_tool(tool.__name__)


@ERAS
async def test_half_characters_and_no_numbers_of_a_tool_leave_no_request_unanswered(
    halves: Agent, mode: str
) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def take(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    async with asyncio.timeout(30), halves.client(mode=mode, log_level="debug") as client:
        told = await client.call_tool("half_told", {}, progress_callback=take)
        bad = await client.call_tool("half", {})
        failed = await client.call_tool("half_an_error", {})

    assert "done" == told.content[0].text
    assert [(1, None, "half \\ud800"), (2, 2, None)] == seen
    assert "half a surrogate pair" in bad.content[0].text
    assert "ValueError: half \\ud800" in failed.content[0].text


@ERAS
async def test_an_answer_without_room_is_never_taken_for_a_whole_one(tmp_path: Path, mode: str) -> None:
    async with running(tmp_path, responses=64) as small:
        body, headers = modern(mode, request("tools/call", name="add", arguments={"a": 1, "b": 2}))
        token = f"Bearer {small.mesh.token(sub='hal')}"
        try:
            answer = await raw(small, body, **headers, authorization=token)
        except httpx2.RemoteProtocolError:  # a stream has begun already
            assert mode == "legacy"
        else:
            assert (503, "result" in answer.json()) == (answer.status_code, False)

        assert ("FAILED_PRECONDITION", "RESPONSE_LOST") == (await last_record(small, "hal"))[:2]
