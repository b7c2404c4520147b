"""Who is who on this machine: certificates from the dev CA, identities file, signing keys."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aegis_common.clock import Clock, utc_now
from aegis_common.errors import AegisError
from aegis_common.files import write_atomic
from aegis_common.pki import CA_TTL, DEFAULT_TTL, DevCa, new_ed25519, server_dns
from aegis_common.pki import spiffe_id as format_spiffe_id
from aegis_common.signing import Signer
from aegis_local.state import StateDir

NAMESPACE: Final = "aegis"
TRUST_DOMAIN: Final = "aegis.local"
SERVICES: Final = ("gateway", "agent", "carbon", "fl-coordinator", "fl-edge")
"""Accounts that serve; each has a DNS SAN of its own."""
CLIENTS: Final[Mapping[str, Sequence[str]]] = {
    "sdk": ("operator", "trainer"),
    "admin": ("viewer", "operator", "trainer", "admin"),
    "viewer": ("viewer",),
    "debugger": ("viewer",),
    "tool-worker": ("worker",),
}
"""Accounts that call through the gateway, with their roles."""
SUPERLINK: Final = "fl-superlink"
_RENEW_BEFORE: Final = DEFAULT_TTL / 3
_LOOK_EVERY_S: Final = 30.0
_log = logging.getLogger(__name__)


def site(number: int) -> str:
    """Return the account of the site with that number, from 1."""
    return f"fl-node-site-{number}"


def spiffe_id(account: str) -> str:
    return format_spiffe_id(TRUST_DOMAIN, NAMESPACE, account)


_WORKER_POLICY: Final = {
    "schema_version": 1,
    "workers": {spiffe_id("tool-worker"): {"tenant": "default", "tools": ["*"]}},
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and its key."""

    cert: Path
    key: Path


class Credentials:
    """All identities of a stack with so many sites, below one state directory."""

    def __init__(self, state: StateDir, *, nodes: int, clock: Clock = utc_now) -> None:
        self._state = state
        self._sites = [site(number) for number in range(1, nodes + 1)]
        self._clock = clock
        self._ca = DevCa.load_or_create(state.ca, trust_domain=TRUST_DOMAIN, clock=clock)

    @property
    def bundle(self) -> Path:
        return self._ca.bundle

    def pair(self, account: str) -> Pair:
        return Pair(*self._ca.leaf(account))

    def create(self) -> None:
        """Issue what is missing or ends soon, and write identities and keys."""
        self.renew()
        write_atomic(self._state.identities, json.dumps(self._identities(), indent=1).encode())
        if not self._state.worker_policy.exists():  # it is the user's to change
            write_atomic(self._state.worker_policy, json.dumps(_WORKER_POLICY, indent=1).encode())
        for name in ("audit", "model-signing", "records"):
            path = self.signing_key(name)
            if not path.exists():
                new_ed25519(path)
        for name in ("audit", "model-signing"):
            public = Signer.load(self.signing_key(name)).public_key
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            write_atomic(self.trusted_keys(name) / f"{name}.pem", pem, mode=0o644)

    def renew(self) -> list[str]:
        """Issue anew every certificate with less than a third of its life left; return the accounts."""
        renewed = []
        for account in [*SERVICES, *CLIENTS, "fl-serverapp", SUPERLINK, *self._sites]:
            if self._ca.needs_renewal(account, within=_RENEW_BEFORE):
                self._issue(account)
                renewed.append(account)
        return renewed

    async def keep_renewing(self) -> None:
        """Look every half a minute, for ever; files are swapped whole, and every process watches them."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                if renewed := await asyncio.to_thread(self.renew):
                    _log.info("certificates issued again: %s", ", ".join(renewed))
            except (AegisError, OSError):
                _log.exception(
                    "certificates could not be issued again; the next try is in %g s", _LOOK_EVERY_S
                )

    def signing_key(self, name: str) -> Path:
        """Return the Ed25519 private key `audit`, `model-signing` or `records`."""
        return self._state.keys / f"{name}.key"

    def trusted_keys(self, name: str) -> Path:
        """Return the folder of public keys that are trusted for `audit` or `model-signing`."""
        return self._state.keys / f"trusted-{name}"

    def node_key(self, account: str) -> Path:
        """Return the Flower key of a site: EC P-384, OpenSSH private key file."""
        return self._state.keys / f"{account}.key"

    def _issue(self, account: str) -> None:
        dns = [server_dns(account, NAMESPACE)] if account in SERVICES else []
        ips = []
        if account in {"gateway", SUPERLINK, *self._sites}:  # a site's Envoy serves its SuperNode on loopback
            dns, ips = [*dns, "localhost"], ["127.0.0.1"]
        # SuperLink reads its certificate only at start, so that one lives as long as its authority.
        ttl = CA_TTL if account == SUPERLINK else DEFAULT_TTL
        self._ca.issue(account, namespace=NAMESPACE, dns=dns, ips=ips, ttl=ttl)

    def _identities(self) -> dict[str, object]:
        entries = {
            spiffe_id(account): {"tenant": "default", "roles": list(roles), "via_gateway": True}
            for account, roles in CLIENTS.items()
        }
        for account in self._sites:
            entries[spiffe_id(account)] = {"tenant": "default", "roles": ["node"], "via_gateway": True}
        return {"schema_version": 1, "identities": entries}
