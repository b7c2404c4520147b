"""How calls of PublisherService look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from aegis.agent.v1 import publisher_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.values import enum_name, moment, resource
from aegis_client.replicas import ReplicaStatus, read_replicas

WHO: Final = method(pb, "PublisherService", "GetPublisher", pb.GetPublisherResponse)
ENROLL: Final = method(pb, "PublisherService", "EnrollPublisherKey", pb.EnrollPublisherKeyResponse)
LIST: Final = method(pb, "PublisherService", "ListPublisherKeys", pb.ListPublisherKeysResponse)
REVOKE: Final = method(pb, "PublisherService", "RevokePublisherKey", pb.RevokePublisherKeyResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Who the caller is to the service.

    Attributes:
        tenant: For which the caller's keys count.
        subject: The subject of the caller's token, or the service account of its certificate.
    """

    tenant: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherKey:
    """The public half of a key with which somebody signs models.

    Attributes:
        name: `publisherKeys/{key}`, with the id by which manifests name their signer.
        public_key: Ed25519, 32 bytes.
        subject: Who enrolled it.
        description: What the owner says about it; may be empty.
        state: `ACTIVE`, `RETIRED` (nothing new is taken) or `COMPROMISED` (nothing that it signed is served).
        create_time: When it was enrolled.
        revoke_time: When it was revoked at last, or None.
        revoked_by: Who revoked it, or empty.
        replicas: After a revocation: how far each agent is with it; else empty.
    """

    name: str
    public_key: bytes
    subject: str
    description: str
    state: str
    create_time: datetime | None
    revoke_time: datetime | None
    revoked_by: str
    replicas: tuple[ReplicaStatus, ...] = ()

    @property
    def key_id(self) -> str:
        """The key's id: the last part of its name."""
        return self.name.rpartition("/")[2]


def who(*, timeout: float | None = None) -> Operation[Publisher]:
    """Return who the caller is to the service."""
    return Operation(
        WHO,
        pb.GetPublisherRequest(),
        lambda answer: Publisher(tenant=answer.tenant, subject=answer.subject),
        timeout,
    )


def enroll(
    public_key: bytes, proof: bytes, description: str, timeout: float | None
) -> Operation[PublisherKey]:
    request = pb.EnrollPublisherKeyRequest(public_key=public_key, proof=proof, description=description)
    return Operation(ENROLL, request, lambda answer: _read_key(answer.publisher_key), timeout)


def list_keys(*, page_size: int = 0) -> Listing[PublisherKey]:
    """Iterate over the keys of the caller's tenant, revoked ones among them, ordered by name."""

    def fetch(token: str) -> Operation[Page[PublisherKey]]:
        request = pb.ListPublisherKeysRequest(page_size=page_size, page_token=token)
        return Operation(LIST, request, _read_keys)

    return Listing(fetch)


def revoke(key: str, *, compromised: bool = False, timeout: float | None = None) -> Operation[PublisherKey]:
    """Revoke a key for good: nothing new that it signed is taken.

    It waits up to 5 s for the other agents; the answer's `replicas` say how far they are. The same call again
    asks again.

    Args:
        key: Id of the key, or `publisherKeys/` and the id.
        compromised: Somebody else may have the private key: nothing that it ever signed is served any longer.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_PUBLISHER_KEY`.
        PermissionDenied: Reason `PUBLISHER_KEY_OF_ANOTHER`.
    """
    request = pb.RevokePublisherKeyRequest(name=resource("publisherKeys", key), compromised=compromised)
    return Operation(REVOKE, request, _read_revoked, timeout)


def _read_revoked(answer: pb.RevokePublisherKeyResponse) -> PublisherKey:
    return replace(_read_key(answer.publisher_key), replicas=read_replicas(answer.replicas))


def _read_keys(answer: pb.ListPublisherKeysResponse) -> Page[PublisherKey]:
    return Page([_read_key(key) for key in answer.publisher_keys], answer.next_page_token)


def _read_key(key: pb.PublisherKey) -> PublisherKey:
    return PublisherKey(
        name=key.name,
        public_key=key.public_key,
        subject=key.subject,
        description=key.description,
        state=enum_name(pb.PublisherKey.State, key.state),
        create_time=moment(key, "create_time"),
        revoke_time=moment(key, "revoke_time"),
        revoked_by=key.revoked_by,
    )
