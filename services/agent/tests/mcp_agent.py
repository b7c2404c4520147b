"""An agent with the HTTP listener and MCP only, and clients of it, for the tests of that door."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
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
from aegis_common.tls import server_dns

PUBLIC = "https://aegis.example.org"


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
async def running(folder: Path, *, drain_s: float = 0.2, responses: int = 1 << 30) -> AsyncIterator[Agent]:
    mesh = Mesh(folder)
    store = StoredArtifacts(ObjectStore.open(f"file://{mesh.folder / 'store'}"), ArtifactPolicy())
    async with AgentManager(artifacts=lambda caller: TenantArtifacts(store, caller.tenant)) as manager:
        for name, tool in mcp_tools.TOOLS.items():
            manager.register_tool(name, tool)
        mcp = McpDoor(manager.registry, manager.dispatcher, public_url=PUBLIC, page_size=4, artifacts=store)
        http = HttpDoor(
            "127.0.0.1:0",
            mcp.routes(),
            max_connection_age=timedelta(minutes=10),
            on_leave=mcp.leave,
            max_responses_bytes=responses,
        )
        settings = Settings(**mesh.service_kwargs("agent"), drain=timedelta(seconds=drain_s))
        async with mcp.running(), serving(settings, name="agent", add=[], doors=[http]):
            yield Agent(mesh, manager, http.port)


async def raw(agent: Agent, body: Any, account: str = "sdk", **headers: str) -> httpx2.Response:
    base = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    async with agent.http(account) as http:
        return await http.post(f"https://127.0.0.1:{agent.port}/mcp", json=body, headers=base | headers)


def call_body(**params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
