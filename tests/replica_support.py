"""Two agents behind a real gateway, over one Redis and one store; each is a process that can be killed."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from aegis_client import Client, Profile
from aegis_common.pki import new_ed25519, public_key_pem, server_dns
from aegis_common.settings import TokenSettings
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import ISSUER, NAMESPACE, Mesh
from aegis_common.testing.ports import free_ports
from aegis_common.testing.redis import RedisServer
from aegis_gateway.config import GatewaySettings
from aegis_gateway.testing import RunningGateway, running_gateway

GUARD_S: Final = 90.0
LEASE_S: Final = 2
_TOOLS: Final = (
    *(f"aegis_agent.testing.job_tools:{name}" for name in ("note_again", "note_once", "note_once_in_child")),
    *(f"aegis_agent.testing.mcp_tools:{name}" for name in ("add", "shout", "watched")),
)
_SHARED: Final = """
    import asyncio

    from aegis_agent import tool


    @tool(idempotent=True, concurrency=64)
    async def repeatable(text: str, seconds: float = 0) -> str:
        await asyncio.sleep(seconds)
        return text


    @tool(tags=("task",), idempotent=True, concurrency=64)
    async def long_shout(text: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return text.upper()


    @tool(concurrency=1, queue_size=0)
    async def narrow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"
"""


def until(condition: Callable[[], bool], what: str = "it") -> float:
    """Wait until *condition* is true; return how long that took, in seconds. The limit is for hangs."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + GUARD_S, f"{what} did not come true"
        time.sleep(0.05)
    return time.monotonic() - begin


@dataclass
class Agent:
    """One replica.

    Attributes:
        port: Of its gRPC listener.
        http_port: Of its HTTP listener.
        log: What it writes; appended to.
    """

    name: str
    port: int
    http_port: int
    environment: dict[str, str]
    log: Path

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "aegis_agent.main"]
            self._process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def kill(self) -> None:
        """End it as a crash would; return when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Let it drain and end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(GUARD_S)

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of its log with this event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@dataclass
class Replicas:
    """Two agents and the gateway in front of them."""

    mesh: Mesh
    gateway: RunningGateway
    agents: tuple[Agent, Agent]
    store: ModelStore
    tools: Path
    folder: Path

    def client(self, at: Agent | None = None, *, account: str = "admin") -> Client:
        """Return a client of the gateway, or of one replica."""
        tls = self.mesh.tls(account)
        service = "agent" if at else "gateway"
        address = f"127.0.0.1:{at.port}" if at else self.gateway.settings.machines_listen
        name = server_dns(service, NAMESPACE)
        profile = Profile(address=address, ca=tls.bundle, cert=tls.cert, key=tls.key, server_name=name)
        return Client(profile)

    def channel(self, at: Agent | None = None) -> Any:
        """Return a raw channel to the gateway, or to one replica."""
        import grpc

        port = at.port if at else int(self.gateway.settings.machines_listen.rpartition(":")[2])
        options = [("grpc.ssl_target_name_override", server_dns("agent" if at else "gateway", NAMESPACE))]
        return grpc.secure_channel(f"127.0.0.1:{port}", self.mesh.credentials("admin"), options)

    def http(self, at: Agent | None = None) -> httpx.Client:
        """Return an HTTP client of the people's door, or of the HTTP listener of one replica."""
        tls = self.mesh.tls("gateway")
        context = ssl.create_default_context(cafile=str(tls.bundle))
        if at:
            context.load_cert_chain(tls.cert, tls.key)
            context.check_hostname = False  # httpx takes the name from the URL; the authority is pinned
        address = f"127.0.0.1:{at.http_port}" if at else self.gateway.settings.people_listen
        token = {"authorization": f"Bearer {self.mesh.token(roles=['operator', 'trainer', 'admin'])}"}
        options: Any = {"verify": context, "base_url": f"https://{address}", "headers": token}
        return httpx.Client(**options, timeout=GUARD_S, trust_env=False)

    def healthy(self) -> int:
        """Return how many listeners of agents the gateway holds for healthy, of four."""
        wanted = "envoy_cluster_membership_healthy{"
        lines = self.gateway.ops("/stats/prometheus").text.splitlines()
        mine = [line for line in lines if line.startswith(wanted) and '"agent' in line]
        return int(sum(float(line.rpartition(" ")[2]) for line in mine))

    def other(self, agent: Agent) -> Agent:
        return self.agents[1 - self.agents.index(agent)]

    def revive(self, agent: Agent) -> None:
        """Start a replica again, as its supervisor would, and wait until the gateway uses both."""
        served = len(agent.said("serving"))
        agent.start()
        # The gateway may not even have noticed that it was away.
        until(lambda: len(agent.said("serving")) > served, f"{agent.name} serves")
        until(lambda: self.healthy() == 4, f"{agent.name} is healthy")

    @contextmanager
    def without(self, agent: Agent) -> Iterator[None]:
        """Kill a replica for the block."""
        agent.kill()
        try:
            yield
        finally:
            self.revive(agent)


@contextmanager
def running_replicas(folder: Path) -> Iterator[Replicas]:
    """Run two agents and a gateway, with everything that they keep below *folder*."""
    mesh = Mesh(folder)
    worker = mesh.spiffe_id("tool-worker")
    mesh.write_identities({worker: {"tenant": "default", "roles": ["worker"], "via_gateway": True}})
    policy = folder / "worker-policy.json"
    grant = {"tenant": "default", "tools": ["*"]}
    policy.write_text(json.dumps({"schema_version": 1, "workers": {worker: grant}}))
    key, trusted, tools = new_ed25519(folder / "signing.key"), folder / "trusted.pem", folder / "tools"
    trusted.write_bytes(public_key_pem(key))
    new_ed25519(folder / "records.key")
    tools.mkdir()
    (tools / "shared.py").write_text(textwrap.dedent(_SHARED))
    store_url = f"file://{folder / 'store'}"
    ports = free_ports(8)
    redis = RedisServer(folder / "redis", append_only=True)
    shared = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ},
        **mesh.service_env("AEGIS_AGENT_", "agent"),
        "AEGIS_AGENT_MODEL_STORE_URL": store_url,
        "AEGIS_AGENT_MODEL_TRUSTED_KEYS": f'["{trusted}"]',
        "AEGIS_AGENT_RECORDS_KEY": str(folder / "records.key"),
        "AEGIS_AGENT_TOOL_FILES": "true",
        "AEGIS_AGENT_REDIS_URL": redis.url,
        "AEGIS_AGENT_JOB_LEASE": str(LEASE_S),
        "AEGIS_AGENT_TOOLS": json.dumps(_TOOLS),
        "AEGIS_AGENT_TOOLS_DIR": str(tools),
        "AEGIS_AGENT_WORKER_POLICY": str(policy),
        "AEGIS_AGENT_WARM_UP": "false",
        "AEGIS_AGENT_PLUGINS": "false",
    }
    agents = (
        _agent(folder, shared, "first", ports[0], ports[1]),
        _agent(folder, shared, "second", ports[2], ports[3]),
    )
    settings = GatewaySettings(
        machines_listen=f"127.0.0.1:{ports[4]}",
        people_listen=f"127.0.0.1:{ports[5]}",
        ops_listen=f"127.0.0.1:{ports[6]}",
        tls=mesh.tls("gateway"),
        identities=mesh.identities,
        token=TokenSettings(issuer=ISSUER, jwks=str(mesh.jwks)),
        agent=",".join(f"127.0.0.1:{agent.port}" for agent in agents),
        agent_http=",".join(f"127.0.0.1:{agent.http_port}" for agent in agents),
        carbon=f"127.0.0.1:{ports[7]}",
        fl_coordinator=f"127.0.0.1:{ports[7]}",
    )
    with ExitStack() as stack:
        redis.start()
        stack.callback(redis.stop)
        for agent in agents:
            stack.callback(agent.kill)
            agent.start()
        gateway = stack.enter_context(running_gateway(settings, folder / "gateway"))
        store = ModelStore(ObjectStore.open(store_url), Signer(key), TrustedKeys())
        made = Replicas(mesh, gateway, agents, store, tools, folder)
        until(lambda: made.healthy() == 4, "both replicas are healthy")
        yield made


def _agent(folder: Path, shared: dict[str, str], name: str, port: int, http_port: int) -> Agent:
    own = {
        "AEGIS_AGENT_LISTEN": f"127.0.0.1:{port}",
        "AEGIS_AGENT_HTTP_LISTEN": f"127.0.0.1:{http_port}",
        "AEGIS_AGENT_ADVERTISE": f"127.0.0.1:{port}",
        "AEGIS_AGENT_INSTANCE": name,
        "AEGIS_AGENT_AUDIT_DIR": str(folder / "audit" / name),
    }
    return Agent(name, port, http_port, shared | own, folder / f"{name}.log")
