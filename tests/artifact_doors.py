"""An agent behind a real gateway, for tests of what goes in and out of it in large pieces."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.settings import TokenSettings
from aegis_common.testing.pki import ISSUER, Mesh
from aegis_common.testing.ports import free_ports
from aegis_gateway.config import GatewaySettings
from aegis_gateway.testing import RunningGateway, running_gateway

MIB = 1 << 20
AGENT_MAX = 540 * MIB
GATEWAY_MAX = 520 * MIB
GUARD_S = 60.0


@dataclass
class Doors:
    """An agent behind a gateway.

    Attributes:
        store: Folder of its object store.
        spool: Folder for uploads that are not complete.
    """

    mesh: Mesh
    gateway: RunningGateway
    environment: dict[str, str]
    store: Path
    spool: Path

    def __post_init__(self) -> None:
        self.agent: subprocess.Popen[bytes]

    def client(self, **token: Any) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.mesh.tls("gateway").bundle))
        headers = {"authorization": f"Bearer {self.mesh.token(**token)}"}
        url = f"https://{self.gateway.settings.people_listen}"
        return httpx.Client(verify=context, base_url=url, headers=headers, timeout=GUARD_S, trust_env=False)

    def kept(self) -> list[Path]:
        """Return every file of the store that belongs to artifacts."""
        return [path for path in self.store.rglob("*") if path.is_file() and "artifacts" in path.parts]

    def start_agent(self) -> None:
        self.agent = subprocess.Popen([sys.executable, "-m", "aegis_agent.main"], env=self.environment)
        with self.client() as client:
            until(lambda: client.get("/v1/artifacts").status_code == 200)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


@contextmanager
def running_doors(folder: Path) -> Iterator[Doors]:
    """Run an agent with its store below *folder*, and a gateway in front of it."""
    mesh = Mesh(folder)
    worker = mesh.spiffe_id("tool-worker")
    mesh.write_identities({worker: {"tenant": "default", "roles": ["worker"], "via_gateway": True}})
    policy = folder / "worker-policy.json"
    grant = {"tenant": "default", "tools": ["far_*"]}
    policy.write_text(json.dumps({"schema_version": 1, "workers": {worker: grant}}))
    trusted = folder / "trusted.pem"
    trusted.write_bytes(public_key_pem(new_ed25519(folder / "signing.key")))
    spool = folder / "spool"
    spool.mkdir()
    agent_port, machines, people, ops, nobody = free_ports(5)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ},
        **mesh.service_env("AEGIS_AGENT_", "agent"),
        "AEGIS_AGENT_LISTEN": f"127.0.0.1:{agent_port}",
        "AEGIS_AGENT_MODEL_STORE_URL": f"file://{folder / 'store'}",
        "AEGIS_AGENT_MODEL_TRUSTED_KEYS": f'["{trusted}"]',
        "AEGIS_AGENT_MAX_ARTIFACT_BYTES": str(AGENT_MAX),
        "AEGIS_AGENT_ARTIFACT_SPOOL_DIR": str(spool),
        "AEGIS_AGENT_TOOLS": '["aegis_agent.testing.content:describe_artifact"]',
        "AEGIS_AGENT_WORKER_POLICY": str(policy),
        "AEGIS_AGENT_WARM_UP": "false",
        "AEGIS_AGENT_PLUGINS": "false",
    }
    settings = GatewaySettings(
        machines_listen=f"127.0.0.1:{machines}",
        people_listen=f"127.0.0.1:{people}",
        ops_listen=f"127.0.0.1:{ops}",
        tls=mesh.tls("gateway"),
        identities=mesh.identities,
        token=TokenSettings(issuer=ISSUER, jwks=str(mesh.jwks)),
        agent=f"127.0.0.1:{agent_port}",
        carbon=f"127.0.0.1:{nobody}",
        fl_coordinator=f"127.0.0.1:{nobody}",
        max_raw_bytes=GATEWAY_MAX,
    )
    with running_gateway(settings, folder / "gateway") as gateway:
        made = Doors(mesh, gateway, environment, folder / "store", spool)
        try:
            made.start_agent()
            yield made
        finally:
            made.agent.terminate()
            made.agent.wait(GUARD_S)


def pieces(size: int) -> Iterator[bytes]:
    block = os.urandom(MIB)
    for start in range(0, size, MIB):
        yield start.to_bytes(8, "big") + block[: min(MIB, size - start) - 8]
