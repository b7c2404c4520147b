"""Where everything of one stack is: ports, sockets, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis_common.pki import server_dns
from aegis_local.credentials import NAMESPACE, Credentials, Pair
from aegis_local.environment import base_environment, overrides, scripts
from aegis_local.issuer import AUDIENCE, ISSUER
from aegis_local.ports import HOST
from aegis_local.state import StateDir
from aegis_local.supervisor.probes import grpc_health
from aegis_local.supervisor.spec import Probe

_OWN: Final = ("LISTEN", "OPS_LISTEN", "HTTP_LISTEN", "ADVERTISE", "INSTANCE", "AUDIT_DIR")
"""Settings in which the replicas of a service differ."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One stack.

    Attributes:
        state: Its state directory.
        credentials: Its identities.
        ports: Name of a listener to its port on loopback.
        nodes: Number of SuperNodes; 0 means that nothing of Flower runs at the sites.
        redis_server: Path of the redis-server program.
        agents: Number of agents, from 1.
    """

    state: StateDir
    credentials: Credentials
    ports: Mapping[str, int]
    nodes: int
    redis_server: Path
    agents: int = 1

    def address(self, name: str) -> str:
        """Return `host:port` of a listener."""
        return f"{HOST}:{self.ports[name]}"

    @property
    def replicas(self) -> list[str]:
        """Names of the agents' processes: `agent`, `agent-2` and so on."""
        return ["agent", *(f"agent-{number}" for number in range(2, self.agents + 1))]

    def of_agents(self, listener: str = "") -> list[str]:
        """Return `host:port` of a listener (`_http`; empty is gRPC's) of every agent."""
        return [self.address(_port(name) + listener) for name in self.replicas]

    def socket(self, name: str) -> Path:
        return self.state.sockets / f"{name}.sock"

    def redis_url(self, name: str) -> str:
        return f"unix://{self.socket(name)}"

    @property
    def jwks(self) -> Path:
        return self.state.issuer / "jwks.json"

    @property
    def token_file(self) -> Path:
        """Token of the profile `people`; written anew before it expires."""
        return self.state.run / "people.token"

    @property
    def store_url(self) -> str:
        return f"file://{self.state.store}"

    @property
    def public_url(self) -> str:
        """Where people reach the gateway."""
        return f"https://localhost:{self.ports['people']}"

    def data(self, name: str) -> Path:
        """Return a private folder that persists; made if absent."""
        folder = self.state.data / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def script(self, name: str) -> str:
        """Return the path of a console script of this installation."""
        return str(scripts() / name)

    def tls(self, account: str) -> dict[str, str]:
        """Return cert, key and bundle of an account as strings."""
        pair = self.credentials.pair(account)
        return {"cert": str(pair.cert), "key": str(pair.key), "bundle": str(self.credentials.bundle)}

    def pair(self, account: str) -> Pair:
        return self.credentials.pair(account)

    def service_environment(self, account: str, name: str, more: Mapping[str, str]) -> dict[str, str]:
        """Return the settings of a process of a service; the user's own variables under its prefix win.

        Args:
            account: The service.
            name: The process; several may share an account. What tells the second and further ones from the
                first is no variable's to change.
            more: Settings that not every service has, without the prefix.
        """
        prefix = f"AEGIS_{_port(account).upper()}_"
        settings = {
            "LISTEN": self.address(_port(name)),
            "OPS_LISTEN": self.address(f"{_port(name)}_ops"),
            **{f"TLS__{key.upper()}": value for key, value in self.tls(account).items()},
            "TOKEN__ISSUER": ISSUER,
            "TOKEN__AUDIENCE": AUDIENCE,
            "TOKEN__JWKS": str(self.jwks),
            "IDENTITIES": str(self.state.identities),
            "AUDIT_DIR": str(self.state.audit / name),
            "AUDIT_KEY": str(self.credentials.signing_key("audit")),
            "AUDIT_SHIP_DIR": str(self.state.audit / "shipped"),
            **more,
        }
        named = {prefix + key: value for key, value in settings.items()}
        own = {prefix + key for key in _OWN} if name != account else set()
        theirs = {key: value for key, value in overrides(prefix).items() if key not in own}
        return {**base_environment(), **named, **theirs}

    def health(self, account: str, name: str) -> Probe:
        """Return a process's readiness: SERVING over mTLS, from a server with the account's own name."""
        debugger = self.pair("debugger")
        return grpc_health(
            self.address(_port(name)),
            server_name=server_dns(account, NAMESPACE),
            cert=debugger.cert,
            key=debugger.key,
            bundle=self.credentials.bundle,
        )


def _port(name: str) -> str:
    """Return the name of the port on which a process serves gRPC."""
    return name.replace("-", "_")
