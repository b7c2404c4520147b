"""aegis.agent.v1.PublisherService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from typing import Any, Final

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aegis.agent.v1 import publisher_service_pb2 as pb
from aegis.agent.v1 import publisher_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.replicas.answers import everywhere
from aegis_agent.domain.publishers import KeyState, Owner, PublisherKey, Publishers
from aegis_agent.domain.replicas import Replicas
from aegis_common.paging import page
from aegis_common.rpc.call import current_call
from aegis_common.signing import key_id

_COLLECTION: Final = "publisherKeys/"
_STATES: Final = {
    KeyState.ACTIVE: pb.PublisherKey.STATE_ACTIVE,
    KeyState.RETIRED: pb.PublisherKey.STATE_RETIRED,
    KeyState.COMPROMISED: pb.PublisherKey.STATE_COMPROMISED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class PublisherServicer(pb_grpc.PublisherServiceServicer):
    """Translate only: no decisions about keys."""

    def __init__(self, publishers: Publishers, replicas: Replicas) -> None:
        self._publishers = publishers
        self._replicas = replicas

    async def GetPublisher(
        self, request: pb.GetPublisherRequest, context: Context
    ) -> pb.GetPublisherResponse:
        owner = _owner()
        return pb.GetPublisherResponse(tenant=owner.tenant, subject=owner.subject)

    async def EnrollPublisherKey(
        self, request: pb.EnrollPublisherKeyRequest, context: Context
    ) -> pb.EnrollPublisherKeyResponse:
        enrolled = await self._publishers.enroll(
            _owner(),
            request.public_key,
            key_id=key_id(Ed25519PublicKey.from_public_bytes(request.public_key)),
            proof=request.proof,
            description=request.description,
        )
        return pb.EnrollPublisherKeyResponse(publisher_key=_key(enrolled))

    async def ListPublisherKeys(
        self, request: pb.ListPublisherKeysRequest, context: Context
    ) -> pb.ListPublisherKeysResponse:
        tenant = _owner().tenant
        found, token = page(
            await self._publishers.keys(tenant),
            key=lambda key: key.key_id,
            size=request.page_size,
            token=request.page_token,
            query=f"ListPublisherKeys/{tenant}",
        )
        return pb.ListPublisherKeysResponse(publisher_keys=map(_key, found), next_page_token=token)

    async def RevokePublisherKey(
        self, request: pb.RevokePublisherKeyRequest, context: Context
    ) -> pb.RevokePublisherKeyResponse:
        wanted = request.name.removeprefix(_COLLECTION)
        done = await self._publishers.revoke(_owner(), wanted, compromised=request.compromised)
        return pb.RevokePublisherKeyResponse(
            publisher_key=_key(done.value), replicas=await everywhere(self._replicas, done.change)
        )


def _owner() -> Owner:
    caller = current_call().principal
    return Owner(caller.tenant, caller.subject or caller.spiffe_id, caller.roles)


def _key(key: PublisherKey) -> pb.PublisherKey:
    message = pb.PublisherKey(
        name=f"{_COLLECTION}{key.key_id}",
        public_key=key.public_key,
        subject=key.subject,
        description=key.description,
        state=_STATES[key.state],
        revoked_by=key.revoked_by,
    )
    message.create_time.FromDatetime(key.created_at)
    if key.revoked_at is not None:
        message.revoke_time.FromDatetime(key.revoked_at)
    return message
