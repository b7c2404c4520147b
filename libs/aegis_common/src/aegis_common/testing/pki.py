"""A throw-away mesh: authority, certificates, identities file and token issuer, in one folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from aegis_common.clock import utc_now
from aegis_common.files import write_atomic
from aegis_common.pki import DevCa, key_id, new_ed25519, server_dns, spiffe_id
from aegis_common.settings import TlsSettings, TokenSettings
from aegis_common.tls import IdentityFiles, channel_credentials

ISSUER: Final = "https://issuer.aegis.test"
AUDIENCE: Final = "aegis"
TRUST_DOMAIN: Final = "aegis.local"
NAMESPACE: Final = "aegis"
CLIENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "sdk": ("operator", "trainer"),
    "admin": ("viewer", "operator", "trainer", "admin"),
    "viewer": ("viewer",),
    "debugger": (),
}
"""Client accounts of the identities file and their roles; all of tenant `default`, all via the gateway."""


class Mesh:
    """Everything that a server and its callers need to trust each other, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.ca: Final = DevCa.load_or_create(folder / "pki", trust_domain=TRUST_DOMAIN)
        self.identities: Final = folder / "identities.json"
        self.jwks: Final = folder / "jwks.json"
        self.audit_key: Final = folder / "audit.key"
        if not self.audit_key.exists():
            new_ed25519(self.audit_key)
        self.write_identities()
        self.rotate_token_key()

    def spiffe_id(self, account: str) -> str:
        return spiffe_id(TRUST_DOMAIN, NAMESPACE, account)

    def tls(self, account: str) -> TlsSettings:
        """Return the files of *account*; its certificate has the DNS name of a server too."""
        cert, key = self.ca.leaf(account)
        if not cert.exists():
            self.rotate(account)
        return TlsSettings(
            cert=cert, key=key, bundle=self.ca.bundle, trust_domain=TRUST_DOMAIN, namespace=NAMESPACE
        )

    def rotate(self, account: str, *, ttl: timedelta = timedelta(hours=1)) -> None:
        """Issue the certificate of *account* again, in the same place."""
        edge = account == "gateway"
        dns = [server_dns(account, NAMESPACE), *(["localhost"] if edge else [])]
        self.ca.issue(account, namespace=NAMESPACE, dns=dns, ips=["127.0.0.1"] if edge else [], ttl=ttl)

    def credentials(self, account: str) -> grpc.ChannelCredentials:
        """Return channel credentials with the client certificate of *account*."""
        return channel_credentials(IdentityFiles.of(self.tls(account)).read())

    def channel(self, port: int, service: str, *, account: str) -> grpc.aio.Channel:
        """Return a channel of *account* to *service* on a loopback port."""
        options = [("grpc.ssl_target_name_override", server_dns(service, NAMESPACE))]
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", self.credentials(account), options)

    def write_identities(self, extra: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """Write the identities file: the clients, and *extra* entries by SPIFFE id."""
        entries: dict[str, Mapping[str, object]] = {
            self.spiffe_id(account): {"tenant": "default", "roles": list(roles), "via_gateway": True}
            for account, roles in CLIENTS.items()
        }
        entries |= extra or {}
        write_atomic(self.identities, json.dumps({"schema_version": 1, "identities": entries}).encode())

    def rotate_token_key(self, *, keep_old: bool = False) -> None:
        """Sign tokens with a new key from now on, and publish it, beside the old ones or alone."""
        kept = json.loads(self.jwks.read_text())["keys"] if keep_old else []
        self._token_key = ec.generate_private_key(ec.SECP256R1())
        self._token_key_id = key_id(self._token_key.public_key())
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._token_key.public_key(), as_dict=True)
        key = {**public, "kid": self._token_key_id, "use": "sig", "alg": "ES256"}
        write_atomic(self.jwks, json.dumps({"keys": [*kept, key]}).encode())

    def token(
        self,
        sub: str = "alice",
        roles: Iterable[str] = ("operator",),
        tenant: str = "default",
        ttl: timedelta = timedelta(minutes=10),
        **overrides: Any,
    ) -> str:
        """Return a signed token; an override replaces a claim, or removes it when it is None."""
        now = utc_now()
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": sub,
            "iat": now,
            "exp": now + ttl,
            "tenant": tenant,
            "roles": list(roles),
        }
        kept = {name: value for name, value in (claims | overrides).items() if value is not None}
        return jwt.encode(kept, self._token_key, algorithm="ES256", headers={"kid": self._token_key_id})

    def service_kwargs(self, service: str) -> dict[str, Any]:
        """Return the fields that the Settings of *service* need, to make it directly."""
        return {
            "tls": self.tls(service),
            "token": TokenSettings(issuer=ISSUER, audience=AUDIENCE, jwks=str(self.jwks)),
            "identities": self.identities,
            "audit_dir": self.folder / "audit" / service,
            "audit_key": self.audit_key,
        }

    def service_env(self, prefix: str, service: str) -> dict[str, str]:
        """Return the environment of a *service* process whose variables begin with *prefix*."""
        tls = self.tls(service)
        values = {
            "TLS__CERT": tls.cert,
            "TLS__KEY": tls.key,
            "TLS__BUNDLE": tls.bundle,
            "TOKEN__ISSUER": ISSUER,
            "TOKEN__AUDIENCE": AUDIENCE,
            "TOKEN__JWKS": self.jwks,
            "IDENTITIES": self.identities,
            "AUDIT_DIR": self.folder / "audit" / service,
            "AUDIT_KEY": self.audit_key,
        }
        return {prefix + name: str(value) for name, value in values.items()}
