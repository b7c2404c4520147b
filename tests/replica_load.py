"""Calls that go on through the gateway, by every door, while something happens behind it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
import httpx
import numpy as np

from aegis_agent.adapters.oip import messages
from aegis_client.tools import Action
from aegis_common.pki import server_dns
from aegis_common.testing.pki import NAMESPACE
from oip_support import infer_request, publish, scores
from replica_support import Agent, Replicas

MODEL: Final = "colours"
_CONTENT: Final = bytes(range(256)) * (12 << 10)
_BINARY: Final = {"content-type": "application/octet-stream"}
_ROW: Final = np.array([[0, 1, 0, 0]], dtype=np.float32)
_JSON_ROW: Final = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 0, 0]}
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
}


@dataclass(frozen=True)
class Failure:
    """A call that failed: when it began, on the clock of `time.monotonic`, and how."""

    kind: str
    begun: float
    error: str


@dataclass
class Load:
    """What came of the calls so far."""

    done: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def grown(self, since: Mapping[str, int], by: int) -> bool:
        """Return whether each kind has *by* more calls done than it had."""
        return all(self.done[kind] >= since[kind] + by for kind in since)


def publish_colours(replicas: Replicas, version: str) -> None:
    """Publish a version through the gateway, as whoever trains models does."""

    async def send() -> None:
        options = [("grpc.ssl_target_name_override", server_dns("gateway", NAMESPACE))]
        address, credentials = replicas.gateway.settings.machines_listen, replicas.mesh.credentials("admin")
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            await publish(channel, replicas.store, MODEL, scores(int(version[1:])), version=version)

    asyncio.run(send())


def serves(replicas: Replicas, agent: Agent, version: str) -> bool:
    """Return whether a replica answers with that version of the model."""
    with replicas.http(agent) as http:
        answer = http.post(f"/v2/models/{MODEL}/infer", json={"inputs": [_JSON_ROW]})
    return answer.status_code == 200 and answer.json()["model_version"] == version


def mcp(http: Any, method: str, **params: Any) -> dict[str, Any]:
    """Send one MCP request and return its result.

    Raises:
        AssertionError: There is none.
    """
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": _META}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
    }
    if named := params.get("taskId") or params.get("name"):
        headers["mcp-name"] = named
    answer = http.post("/mcp", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = [line for line in text.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
    found = json.loads(text)
    assert "result" in found, found
    result: dict[str, Any] = found["result"]
    return result


@contextmanager
def doors(replicas: Replicas) -> Iterator[dict[str, Callable[[], Any]]]:
    """Give a call by each door; those that begin with `again` may be sent again without harm."""
    with replicas.client() as client, replicas.http() as http, replicas.channel() as channel:
        yield _doors(client, http, channel)


def _doors(client: Any, http: Any, channel: Any) -> dict[str, Callable[[], Any]]:
    infer = channel.unary_unary(
        f"/{messages.SERVICE}/ModelInfer",
        request_serializer=messages.ModelInferRequest.SerializeToString,
        response_deserializer=messages.ModelInferResponse.FromString,
    )

    def rest() -> None:
        answer = _whole(lambda: http.post(f"/v2/models/{MODEL}/infer", json={"inputs": [_JSON_ROW]}))
        assert answer.status_code == 200, answer.text

    def list_mcp() -> None:
        assert _whole(lambda: mcp(http, "tools/list"))["tools"]

    def artifact() -> None:
        kept = client.artifacts.put(_CONTENT, media_type="application/octet-stream")
        assert client.artifacts.get(kept.name) == _CONTENT

    def upload() -> None:
        answer = http.post("/v1/artifacts", content=_CONTENT, headers=_BINARY)
        assert answer.status_code == 200, answer.text

    return {
        "again: artifact": artifact,
        "once: upload over HTTP": upload,
        "once: stream": lambda: list(client.tools.stream("repeatable", {"text": "hi", "seconds": 0.02})),
        "once: batch": lambda: client.tools.batch([Action(tool="add", arguments={"a": 1})] * 3),
        "again: idempotent tool": lambda: client.tools.run("repeatable", {"text": "hi", "seconds": 0.02}),
        "again: inference": lambda: infer(infer_request(MODEL, "input", _ROW, "FP32"), timeout=30),
        "again: inference over REST": rest,
        "again: list of jobs": lambda: next(iter(client.jobs.list(page_size=1)), None),
        "once: tool": lambda: client.tools.run("add", {"a": 1}),
        "once: MCP": lambda: mcp(http, "tools/call", name="add", arguments={"a": 1}),
        "again: MCP list": list_mcp,
    }


def _whole(ask: Callable[[], Any]) -> Any:
    """Ask once more when the answer was cut off in the middle; no proxy can do that for its client."""
    try:
        return ask()
    except httpx.RemoteProtocolError:
        return ask()


@contextmanager
def calling(calls: Mapping[str, Callable[[], Any]]) -> Iterator[Load]:
    """Make each call again and again, while the block runs, each in a thread of its own."""
    load, over = Load(Counter(dict.fromkeys(calls, 0))), threading.Event()

    def go_on(kind: str, call: Callable[[], Any]) -> None:
        while not over.is_set():
            begun = time.monotonic()
            try:
                call()
            except Exception as error:  # any failure counts
                load.failures.append(Failure(kind, begun, f"{type(error).__name__}: {error}"))
                time.sleep(0.02)
            load.done[kind] += 1

    threads = [threading.Thread(target=go_on, args=item, daemon=True) for item in calls.items()]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()
