"""NodeService: protobuf in, domain, protobuf out."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aegis.fl.v1 import node_service_pb2 as pb
from aegis.fl.v1 import node_service_pb2_grpc as pb_grpc
from aegis_common.paging import page
from aegis_common.rpc.call import Context, current_call
from aegis_fl_coordinator.adapters.convert import node_message
from aegis_fl_coordinator.domain.errors import InvalidPublicKey
from aegis_fl_coordinator.domain.registry import NodeRegistry

_FIELD: Final = "node.public_key_pem"


class NodeServicer(pb_grpc.NodeServiceServicer):
    def __init__(self, nodes: NodeRegistry) -> None:
        self._nodes = nodes

    async def RegisterNode(
        self, request: pb.RegisterNodeRequest, context: Context
    ) -> pb.RegisterNodeResponse:
        status = await self._nodes.register(
            current_call().principal.tenant,
            request.node_id,
            public_key_pem=canonical_key(request.node.public_key_pem),
            zone=request.node.zone,
            watts=request.node.watts,
            labels=dict(request.node.labels),
        )
        return pb.RegisterNodeResponse(node=node_message(status))

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        tenant = current_call().principal.tenant
        nodes, token = page(
            await self._nodes.list(tenant),
            key=lambda status: status.node.node_id,
            size=request.page_size,
            token=request.page_token,
            query=f"nodes of {tenant}",
        )
        return pb.ListNodesResponse(nodes=[node_message(status) for status in nodes], next_page_token=token)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        status = await self._nodes.get(current_call().principal.tenant, _node_id(request.name))
        return pb.GetNodeResponse(node=node_message(status))

    async def RemoveNode(self, request: pb.RemoveNodeRequest, context: Context) -> pb.RemoveNodeResponse:
        await self._nodes.remove(current_call().principal.tenant, _node_id(request.name))
        return pb.RemoveNodeResponse()


def _node_id(name: str) -> str:
    return name.removeprefix("nodes/")


def canonical_key(pem: str) -> str:
    """Return an EC P-384 public key in the one form that it is stored and compared in.

    Raises:
        InvalidPublicKey: It is none.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _invalid("is no SubjectPublicKeyInfo PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _invalid("is no EC P-384 key")
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _invalid(text: str) -> InvalidPublicKey:
    return InvalidPublicKey(f"the public key {text}", violations={_FIELD: text})
