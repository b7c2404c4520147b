"""Requests to the MCP endpoint that no client of good will sends: who, what, how large, from where."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from services.agent.tests.mcp_agent import PUBLIC, Agent, call_body, raw, running

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
