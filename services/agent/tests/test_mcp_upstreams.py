"""MCP servers elsewhere that answer what they should not, not at all, or as another server than before."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aegis_agent import AgentManager
from aegis_agent.adapters.mcp import mounts as mounts_module
from aegis_agent.adapters.mcp import upstream as upstream_module
from aegis_agent.adapters.mcp import upstream_http
from aegis_agent.adapters.mcp.mounts import Mounts
from aegis_agent.adapters.mcp.upstream import Upstream, UpstreamOptions, UpstreamUnavailable
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import InvalidToolOutput, ToolFailed, ToolTimeout
from aegis_common.errors import AegisError
from aegis_common.testing.ports import free_port
from aegis_common.testing.waiting import until

SLOW_PATTERN = "^(a+)+$"
OBJECT: dict[str, Any] = {"type": "object"}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": OBJECT, **more}


class Hostile:
    """An MCP server of the handshake versions, written by hand: its lists and its results are the test's."""

    def __init__(self) -> None:
        self.tools: list[dict[str, Any]] = [tool("tool")]
        self.result: Any = {"content": [{"type": "text", "text": "fine"}]}
        self.answers: dict[str, Callable[[Request], Any]] = {}
        self.seen: list[str] = []
        self.begun, self.left = asyncio.Event(), asyncio.Event()
        self.port = free_port()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = json.loads(await request.body() or b"{}")
        method = body.get("method", request.method)
        self.seen.append(method)
        own = self.answers.get(method)
        response = own(request) if own else self._answer(method, body)
        if asyncio.iscoroutine(response):
            response = await response
        await response(scope, receive, send)

    def _answer(self, method: str, body: dict[str, Any]) -> Response:
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "hostile", "version": "1"},
            },
            "tools/list": {"tools": self.tools},
            "tools/call": self.result,
        }
        if method in results:
            answer = {"jsonrpc": "2.0", "id": body["id"], "result": results[method]}
            return JSONResponse(answer, headers={"mcp-session-id": "one"})
        if "id" in body:
            error = {"code": -32601, "message": "Method not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": body["id"], "error": error}, 404)
        return Response(status_code=405 if method in ("GET", "DELETE") else 202)

    async def hang(self, _: Request) -> Response:
        self.begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            self.left.set()
        return Response()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[UpstreamOptions]:
        server = uvicorn.Server(
            uvicorn.Config(self, port=self.port, log_level="warning", ws="none", lifespan="off")
        )
        task = asyncio.ensure_future(server.serve())
        await until(lambda: server.started, timeout_s=60)
        try:
            yield UpstreamOptions(name="far", url=f"http://127.0.0.1:{self.port}/mcp", allow=("*",))
        finally:
            server.should_exit = server.force_exit = True
            await task


@pytest.fixture
async def hostile() -> AsyncIterator[tuple[Hostile, UpstreamOptions]]:
    made = Hostile()
    async with made.serving() as options:
        yield made, options


@contextlib.asynccontextmanager
async def mounted(options: UpstreamOptions) -> AsyncIterator[tuple[AgentManager, Mounts]]:
    async with AgentManager() as manager:
        mounts = Mounts(manager.registry, [options], retire=manager.retire_tool, refresh=timedelta(hours=1))
        async with mounts:
            yield manager, mounts


def names(manager: AgentManager) -> list[str]:
    return [item.spec.name for item in manager.registry.tools(caller=Caller())]


async def test_a_call_asks_for_no_list_and_is_checked_against_what_was_pinned(hostile: Any) -> None:
    """The SDK would match the result with the pattern that the server has by now, and not come back."""
    made, options = hostile
    made.tools = [tool("tool", outputSchema={**OBJECT, "properties": {"a": {"type": "string"}}})]
    made.result = {"content": [], "structuredContent": {"a": "a" * 40 + "!"}}
    async with mounted(options) as (manager, _):
        made.seen.clear()
        made.tools = [tool("tool", outputSchema={**OBJECT, "properties": {"a": {"pattern": SLOW_PATTERN}}})]

        assert {"a": "a" * 40 + "!"} == await manager.dispatch("tool", {})
        assert "tools/list" not in made.seen
        made.result = {"content": [], "structuredContent": {"a": 1}}
        with pytest.raises(InvalidToolOutput):
            await manager.dispatch("tool", {})


@pytest.mark.parametrize("method", ["tools/call", "DELETE"])
async def test_a_server_that_never_answers_holds_nobody_up(hostile: Any, method: str) -> None:
    made, options = hostile
    async with mounted(options) as (manager, _):
        made.answers["tools/call"] = made.answers[method] = made.hang
        async with asyncio.timeout(20):
            with pytest.raises(ToolTimeout):
                await manager.dispatch("tool", {}, timeout=0.3)
            asking = asyncio.ensure_future(manager.dispatch("tool", {}))
            made.begun.clear()
            await made.begun.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert 0 == manager.registry.find("tool", caller=Caller()).admission.running


async def test_cancelled_calls_still_count_until_the_server_has_let_go_of_them(hostile: Any) -> None:
    made, options = hostile
    made.answers["tools/call"] = made.answers["DELETE"] = made.hang
    async with mounted(replace(options, concurrency=1)) as (manager, _):
        for _ in range(2):
            with pytest.raises(ToolTimeout):
                await manager.dispatch("tool", {}, timeout=0.3)

    assert 1 == made.seen.count("tools/call")


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65536
        await asyncio.sleep(0)


async def broken() -> AsyncIterator[bytes]:
    yield b"{"
    raise asyncio.CancelledError


def zipped(_: Request) -> Response:
    return Response(gzip.compress(b"{}"), headers={"content-encoding": "gzip"}, media_type="application/json")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: StreamingResponse(endless(), media_type="application/json"), "more than 1000000 bytes"),
        (lambda _: StreamingResponse(endless(), media_type="text/event-stream"), "ended without a response"),
        (lambda _: StreamingResponse(broken(), media_type="application/json"), "broke off"),
        (lambda _: Response(b"[" * 2000, media_type="application/json"), "more than 1000 lists"),
        (zipped, "content encoding 'gzip'"),
        (lambda _: Response(b"{", media_type="application/json"), ""),
        (lambda _: Response(b"<html>", media_type="text/html"), ""),
        (lambda _: Response(status_code=500), ""),
        (lambda _: JSONResponse({"jsonrpc": "2.0", "id": 1, "result": 5}), ""),
    ],
)
async def test_what_is_too_large_or_no_answer_is_an_error_of_the_call(
    hostile: Any, answer: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_http, "MAX_RESPONSE_BYTES", 1_000_000)
    monkeypatch.setattr(upstream_http, "MAX_RESPONSE_PARTS", 1000)
    made, options = hostile
    async with mounted(replace(options, timeout=timedelta(seconds=5))) as (manager, _):
        made.answers["tools/call"] = answer
        with pytest.raises(AegisError) as caught:
            await manager.dispatch("tool", {})
        del made.answers["tools/call"]

        assert isinstance(caught.value, UpstreamUnavailable | ToolFailed | ToolTimeout)
        assert words in caught.value.message
        assert "fine" == await manager.dispatch("tool", {})


async def test_what_a_server_tells_meanwhile_is_cut_to_what_our_own_tools_may_tell(hostile: Any) -> None:
    made, options = hostile
    seen: list[Any] = []

    async def told(request: Request) -> Response:
        body = await request.json()
        token = body["params"]["_meta"]["progressToken"]
        params = {"progressToken": token, "progress": 1, "message": "x" * 100_000}
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        answer = {"jsonrpc": "2.0", "id": body["id"], "result": made.result}
        text = "".join(f"data: {json.dumps(item)}\n\n" for item in (progress, answer))
        return Response(text, media_type="text/event-stream")

    async def take(event: Any) -> None:
        seen.append(event)

    made.answers["tools/call"] = told
    async with mounted(options) as (manager, _):
        await manager.dispatcher.dispatch(Action("tool", {}), caller=Caller(), sink=take)

    assert ["x" * 4096] == [event.message for event in seen]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"content": [{"type": "image", "data": "no base64!", "mimeType": "image/png"}]}, "no base64"),
        ({"content": [{"type": "strange"}]}, "no result"),
        ({"content": 5}, "no result"),
        ({"resultType": "input_required", "inputRequests": {}}, "no result"),
    ],
)
async def test_a_result_that_is_none_is_an_error_of_the_tool(hostile: Any, result: Any, words: str) -> None:
    made, options = hostile
    made.result = result
    async with mounted(options) as (manager, _):
        with pytest.raises(ToolFailed, match=words):
            await manager.dispatch("tool", {})


async def test_names_that_become_one_are_not_offered_at_all(hostile: Any, caplog: Any) -> None:
    made, options = hostile
    made.tools = [tool("Tool"), tool("other"), tool("tool")]
    async with mounted(options) as (manager, mounts):
        assert ["other"] == names(manager)
        assert any("Tool, tool" in getattr(record, "error", "") for record in caplog.records)

        made.tools = [tool("tool"), tool("other")]
        await mounts.look()
        assert ["other", "tool"] == names(manager)

        made.tools = [tool("Tool"), tool("other")]
        await mounts.look()
        assert ["other", "tool"] == names(manager)
        made.answers["tools/call"] = lambda _: JSONResponse({})
        with pytest.raises(AegisError):
            await manager.dispatch("tool", {})


async def test_a_tool_in_the_place_of_a_mounted_one_is_not_withdrawn_with_it(hostile: Any) -> None:
    made, options = hostile
    async with mounted(options) as (manager, mounts):
        await manager.upgrade_tool("tool", ours)
        made.tools = []
        await mounts.look()

        assert "ours" == await manager.dispatch("tool", {})


async def ours() -> str:
    return "ours"


async def test_that_a_tool_may_be_repeated_is_pinned_too(hostile: Any) -> None:
    made, options = hostile
    async with mounted(options) as (manager, mounts):
        made.tools = [tool("tool", annotations={"idempotentHint": True})]
        await mounts.look()

        assert [] == names(manager)


async def test_a_tool_that_cannot_be_offered_does_not_keep_the_others_away(
    hostile: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made, options = hostile
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"not": deep}
    made.tools = [
        tool("deep", outputSchema={**OBJECT, "not": deep}),
        tool("wordy", description="x" * 20_000),
        tool("slow", inputSchema={**OBJECT, "properties": {"a": {"pattern": "(?=a)b"}}}),
        tool("x" * 100),
        tool("good"),
    ]
    with caplog.at_level(logging.ERROR):
        async with mounted(options) as (manager, _):
            assert ["good"] == names(manager)
    told = [record for record in caplog.records if "cannot be offered" in record.message]
    assert 4 == len(told)


async def test_the_tools_of_one_server_do_not_fill_everybodys_lists(
    hostile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts_module, "_MAX_SAID_BYTES", 3000)
    made, options = hostile
    made.tools = [tool(f"tool{i}", description="x" * 1000) for i in range(5)]
    async with mounted(options) as (manager, _):
        assert ["tool0", "tool1"] == names(manager)


async def test_a_server_cannot_list_tools_without_end(hostile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "MAX_TOOLS", 10)
    made, options = hostile
    made.tools = [tool(f"tool{i}") for i in range(11)]
    upstream = Upstream(options)

    with pytest.raises(UpstreamUnavailable, match="lists more than 10 tools"):
        await upstream.tools()
    await upstream.close()


async def test_a_server_that_is_an_older_one_by_now_is_asked_anew(hostile: Any) -> None:
    _, options = hostile
    upstream = Upstream(options)
    upstream._mode = "2026-07-28"  # as the one that was there before spoke

    with pytest.raises((UpstreamUnavailable, ToolFailed)):
        await upstream.tools()
    assert ["tool"] == [item.name for item in await upstream.tools()]
    await upstream.close()
