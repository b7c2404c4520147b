"""Where everything of one stack is: ports, sockets, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aegis_common.pki import server_dns
from aegis_local.credentials import NAMESPACE, Credentials, Pair
from aegis_local.environment import base_environment, overrides, scripts
from aegis_local.issuer import AUDIENCE, ISSUER
from aegis_local.ports import HOST
from aegis_local.state import StateDir
from aegis_local.supervisor.probes import grpc_health
from aegis_local.supervisor.spec import Probe


@dataclass(frozen=True, slots=True)
class Layout:
    """One stack.

    Attributes:
        state: Its state directory.
        credentials: Its identities.
        ports: Name of a listener to its port on loopback.
        nodes: Number of SuperNodes; 0 means that nothing of Flower runs at the sites.
        redis_server: Path of the redis-server program.
    """

    state: StateDir
    credentials: Credentials
    ports: Mapping[str, int]
    nodes: int
    redis_server: Path

    def address(self, name: str) -> str:
        """Return `host:port` of a listener."""
        return f"{HOST}:{self.ports[name]}"

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

    def service_environment(self, account: str) -> dict[str, str]:
        """Return the settings that every service has; the user's own variables under its prefix win."""
        name = account.replace("-", "_")
        prefix = f"AEGIS_{name.upper()}_"
        audit = self.state.audit / account
        settings = {
            "LISTEN": self.address(name),
            "OPS_LISTEN": self.address(f"{name}_ops"),
            **{f"TLS__{key.upper()}": value for key, value in self.tls(account).items()},
            "TOKEN__ISSUER": ISSUER,
            "TOKEN__AUDIENCE": AUDIENCE,
            "TOKEN__JWKS": str(self.jwks),
            "IDENTITIES": str(self.state.identities),
            "AUDIT_DIR": str(audit),
            "AUDIT_KEY": str(self.credentials.signing_key("audit")),
            "AUDIT_SHIP_DIR": str(self.state.audit / "shipped"),
        }
        return {
            **base_environment(),
            **{prefix + key: value for key, value in settings.items()},
            **overrides(prefix),
        }

    def health(self, account: str) -> Probe:
        """Return a service's readiness: SERVING over mTLS, from a server with the account's own name."""
        debugger = self.pair("debugger")
        return grpc_health(
            self.address(account.replace("-", "_")),
            server_name=server_dns(account, NAMESPACE),
            cert=debugger.cert,
            key=debugger.key,
            bundle=self.credentials.bundle,
        )
