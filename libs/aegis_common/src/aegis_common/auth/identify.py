"""Who calls: the peer's certificate, what the gateway vouches for, the user's token, or a stored user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Final, Self

from aegis_common.auth.errors import AmbiguousIdentity, OnBehalfOfNotAllowed, PeerNotNamed, TokenInvalid
from aegis_common.auth.identities import Identities
from aegis_common.auth.principal import ANONYMOUS, DEFAULT_TENANT, Principal, service_account
from aegis_common.auth.tokens import TokenVerifier
from aegis_common.errors import Unauthenticated
from aegis_common.pki import spiffe_id
from aegis_common.settings import ServiceSettings

AUTHORIZATION: Final = "authorization"
ON_BEHALF_OF: Final = "aegis-on-behalf-of"
FORWARDED_CLIENT_CERT: Final = "x-forwarded-client-cert"
_NAMING: Final = frozenset({AUTHORIZATION, ON_BEHALF_OF, FORWARDED_CLIENT_CERT})
GATEWAY: Final = "gateway"

_MAX_RECORD: Final = 4 << 10

Metadata = Sequence[tuple[str, str | bytes]]


class Identifier:
    """Finds out who calls a service, with what its settings name; the files and keys are followed."""

    def __init__(
        self, identities: Identities, verifier: TokenVerifier, *, trust_domain: str, namespace: str
    ) -> None:
        self.identities: Final = identities
        self.verifier: Final = verifier
        self._trust_domain = trust_domain
        self._namespace = namespace

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ServiceSettings) -> AsyncIterator[Self]:
        """Read what *settings* name, and follow it while the block runs.

        Raises:
            ConfigurationError: The identities file or the key set cannot be used.
        """
        tls = settings.tls
        async with (
            Identities(settings.identities) as identities,
            TokenVerifier.of(settings.token, settings.issuer) as verifier,
        ):
            yield cls(identities, verifier, trust_domain=tls.trust_domain, namespace=tls.namespace)

    async def identify(
        self, peer_spiffe_id: str, metadata: Metadata, *, on_behalf_of: frozenset[str]
    ) -> Principal:
        """Return who makes a call; as `identify()`, which also says what it raises."""
        return await identify(
            peer_spiffe_id,
            metadata,
            rule_on_behalf_of=on_behalf_of,
            trust_domain=self._trust_domain,
            namespace=self._namespace,
            identities=self.identities,
            verifier=self.verifier,
        )


async def identify(
    peer_spiffe_id: str,
    metadata: Metadata | Mapping[str, str],
    *,
    rule_on_behalf_of: frozenset[str],
    trust_domain: str,
    namespace: str,
    identities: Identities,
    verifier: TokenVerifier,
) -> Principal:
    """Return who makes a call. Headers that only a gateway may set count from the gateway only.

    Args:
        peer_spiffe_id: SPIFFE id of the direct peer's certificate, or empty.
        metadata: Metadata of the call, keys in lower case; pairs, so that repeated keys are seen.
        rule_on_behalf_of: Service accounts that may act for a stored user on this method.
        trust_domain: Our trust domain; a peer of another one is refused.
        namespace: Our namespace; a peer of another one is refused.
        identities: Tenant and roles of machines.
        verifier: Verifies bearer tokens.

    Raises:
        PeerNotNamed: The peer's certificate names nobody of this mesh, and yet it claims an identity.
        AmbiguousIdentity: The metadata name the caller twice.
        OnBehalfOfNotAllowed: The peer may not act for a stored user here.
        Unauthenticated: The token or the stored user cannot be accepted; the reason says why.
    """
    values = _Values(metadata)
    token = _bearer(values.one(AUTHORIZATION))
    record = values.one(ON_BEHALF_OF)
    account = _own_account(peer_spiffe_id, trust_domain, namespace)
    if not account:
        if peer_spiffe_id or token is not None or record is not None:
            raise PeerNotNamed(
                f"the client certificate must have exactly one SPIFFE id, "
                f"{spiffe_id(trust_domain, namespace, '<account>')}; it has {peer_spiffe_id or 'none'!r}"
            )
        return ANONYMOUS
    if record is not None:
        return _stored_user(record, token, account, peer_spiffe_id, rule_on_behalf_of)
    machine = _machine(peer_spiffe_id, account, identities)
    if account == GATEWAY:
        caller = _vouched_for(values.one(FORWARDED_CLIENT_CERT))
        machine = _through_gateway(caller, trust_domain, namespace, identities)
    if token is None:
        return machine
    user = await verifier.verify(token)
    return Principal(machine.spiffe_id, user.subject, user.tenant, user.roles, token=token)


def _stored_user(
    record: str, token: str | None, account: str, peer_spiffe_id: str, allowed: frozenset[str]
) -> Principal:
    if account == GATEWAY or account not in allowed:
        raise OnBehalfOfNotAllowed(
            f"service account {account} may not act for a stored user on this method", service_account=account
        )
    if token is not None:
        raise AmbiguousIdentity(f"send {AUTHORIZATION} or {ON_BEHALF_OF}, not both")
    if len(record) > _MAX_RECORD:
        raise Unauthenticated(f"{ON_BEHALF_OF} is longer than {_MAX_RECORD} characters")
    try:
        user = Principal.from_record(record)
    except RecursionError as error:
        raise Unauthenticated(f"{ON_BEHALF_OF} cannot be read") from error
    return replace(user, spiffe_id=peer_spiffe_id)


def _machine(peer: str, account: str, identities: Identities) -> Principal:
    identity = identities.lookup(peer)
    if identity is None:
        return Principal(peer, account, DEFAULT_TENANT, frozenset())
    return Principal(peer, account, identity.tenant, identity.roles)


def _through_gateway(caller: str, trust_domain: str, namespace: str, identities: Identities) -> Principal:
    account = _own_account(caller, trust_domain, namespace)
    identity = identities.lookup(caller)
    if not account or identity is None or not identity.via_gateway:
        return ANONYMOUS
    return Principal(caller, account, identity.tenant, identity.roles)


@lru_cache(maxsize=1024)
def _own_account(peer: str, trust_domain: str, namespace: str) -> str:
    """Return the account of an id of our own mesh; the same name in another namespace is somebody else."""
    account = service_account(peer)
    return account if account and peer == spiffe_id(trust_domain, namespace, account) else ""


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token:
        raise TokenInvalid("authorization must be `Bearer <token>`")
    return token


def _vouched_for(header: str | None) -> str:
    """Return the URI of the last element of x-forwarded-client-cert: what the gateway itself has seen."""
    if not header:
        return ""
    uris = [value for key, value in _pairs(_split(header, ",")[-1]) if key == "uri"]
    return uris[0] if len(uris) == 1 else ""


def _pairs(element: str) -> list[tuple[str, str]]:
    found = []
    for part in _split(element, ";"):
        key, _, value = part.partition("=")
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            value = value[1:-1].replace('\\"', '"')
        found.append((key.strip().lower(), value))
    return found


def _split(text: str, separator: str) -> list[str]:
    """Split outside double quotes; a quoted value may hold the separator, and a quote after a backslash."""
    parts, start, quoted, escaped = [], 0, False, False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


class _Values:
    """The metadata that say who calls, by key; they also know when a key came twice."""

    def __init__(self, metadata: Metadata | Mapping[str, str]) -> None:
        self._found: dict[str, list[str | bytes]] = {}
        for name, value in metadata.items() if isinstance(metadata, Mapping) else metadata:
            key = name.lower()
            if key in _NAMING:
                self._found.setdefault(key, []).append(value)

    def one(self, key: str) -> str | None:
        found = self._found.get(key)
        if not found:
            return None
        if len(found) > 1:
            raise AmbiguousIdentity(f"{key} came {len(found)} times; send it once", key=key)
        value = found[0]
        return value if isinstance(value, str) else value.decode("utf-8", "replace")
