"""A stack started by `aegis up`, as its user would start it, and seen from outside."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from aegis_client import Client, load_profile

AEGIS = Path(sys.executable).with_name("aegis")
AGENTS = os.environ.get("AEGIS_TEST_AGENTS", "1")
"""Replicas of the agent in every stack that a test starts."""
CLIENTS = ("sdk", "admin", "viewer", "debugger")


# Tools that misbehave, beside the ones that an agent always has.
BAD_TOOLS = ("spin", "crash")


def run_aegis(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line and return what it printed."""
    tools = json.dumps([f"aegis_agent.testing.tools:{name}" for name in BAD_TOOLS])
    return subprocess.run(
        [str(AEGIS), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "AEGIS_AGENT_TOOLS": tools},
    )


@dataclass(frozen=True)
class Stack:
    """A running stack, seen from outside."""

    state: Path

    def status(self) -> dict[str, Any]:
        done = run_aegis("status", "-o", "json", "--state-dir", str(self.state))
        assert done.stdout, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = self.status()["ports"]
        return ports

    def process(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [p for p in self.status()["processes"] if p["name"] == name]
        return found[0]

    @property
    def bundle(self) -> Path:
        return self.state / "ca" / "bundle.crt"

    def pair(self, account: str) -> tuple[Path, Path]:
        return self.state / "ca" / account / "tls.crt", self.state / "ca" / account / "tls.key"

    def token(self, *roles: str, sub: str = "alice", tenant: str = "default", ttl: str = "10m") -> str:
        flags = [flag for role in roles for flag in ("--role", role)]
        where = ("--state-dir", str(self.state))
        done = run_aegis("token", *flags, "--sub", sub, "--tenant", tenant, "--ttl", ttl, *where)
        assert 0 == done.returncode, done.stderr
        return done.stdout.strip()

    def http(self, token: str | None = None, **options: Any) -> httpx.Client:
        """A client of the people's listener."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        context = ssl.create_default_context(cafile=str(self.bundle))
        url = f"https://localhost:{self.ports['people']}"
        return httpx.Client(base_url=url, verify=context, headers=headers, timeout=60, **options)

    def machines_http(self, account: str) -> httpx.Client:
        """A client of the machines' listener, with an account's certificate."""
        context = ssl.create_default_context(cafile=str(self.bundle))
        context.load_cert_chain(*self.pair(account))
        url = f"https://localhost:{self.ports['machines']}"
        return httpx.Client(base_url=url, verify=context, timeout=60)

    def channel(
        self, port: str, account: str | None, *, service: str = "gateway", options: Sequence[Any] = ()
    ) -> grpc.Channel:
        """A raw channel to a listener, with an account's certificate or with none."""
        key = cert = None
        if account is not None:
            cert_file, key_file = self.pair(account)
            key, cert = key_file.read_bytes(), cert_file.read_bytes()
        credentials = grpc.ssl_channel_credentials(self.bundle.read_bytes(), key, cert)
        name = f"{service}.aegis.aegis.internal"
        return grpc.secure_channel(
            f"127.0.0.1:{self.ports[port]}",
            credentials,
            [("grpc.ssl_target_name_override", name), *options],
        )

    def client(self, profile: str = "sdk") -> Client:
        return Client(load_profile(profile, file=self.state / "profiles.toml"))


def start_stack(state: Path, *, nodes: int) -> Stack:
    """Start a stack on free ports; fails the test with what `aegis up` printed."""
    size = ("--nodes", str(nodes), "--agents", AGENTS)
    done = run_aegis("up", "--detach", "--port-base", "0", *size, "--state-dir", str(state), timeout=180)
    assert 0 == done.returncode, done.stdout + done.stderr
    return Stack(state)


def stop_stack(stack: Stack) -> None:
    done = run_aegis("down", "--state-dir", str(stack.state))
    assert 0 == done.returncode, done.stdout + done.stderr
