"""The sites that take part in federated training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from aegis.fl.v1 import node_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import enum_name, moment, optional_resource, resource

REGISTER_NODE: Final = method(pb, "NodeService", "RegisterNode", pb.RegisterNodeResponse)
LIST_NODES: Final = method(pb, "NodeService", "ListNodes", pb.ListNodesResponse)
GET_NODE: Final = method(pb, "NodeService", "GetNode", pb.GetNodeResponse)
REMOVE_NODE: Final = method(pb, "NodeService", "RemoveNode", pb.RemoveNodeResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One site's training process.

    Attributes:
        name: `nodes/{node}`.
        public_key_pem: EC P-384, SubjectPublicKeyInfo PEM.
        zone: `zones/{zone}` of its grid, or empty.
        state: `REGISTERED`, `ONLINE` or `OFFLINE`.
        last_active_time: When it was last activated; None before its first call.
        watts: Power that it draws while it trains, as its site declares it; 0 when that is not known.
        labels: What its site says of it.
    """

    name: str
    public_key_pem: str
    zone: str
    state: str
    last_active_time: datetime | None
    create_time: datetime | None
    watts: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


def _register(
    node_id: str,
    public_key_pem: str,
    *,
    zone: str = "",
    watts: float = 0.0,
    labels: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Operation[Node]:
    """Admit a node by its public key; doing so again changes nothing.

    Args:
        node_id: Lower-case letters, digits and `-`; 1 to 63 of them.
        public_key_pem: EC P-384, SubjectPublicKeyInfo PEM.
        zone: `GB` or `zones/GB`, or empty.
        watts: Power that it draws while it trains, up to 10000000; 0 when that is not known.
        labels: What there is to say of it, for runs that choose their nodes by it.
        timeout: Deadline of the call, in seconds.

    Raises:
        InvalidArgument: Reason `INVALID_PUBLIC_KEY`.
        AlreadyExists: Reason `NODE_EXISTS`: the name or the key belongs to another node.
    """
    node = pb.Node(
        public_key_pem=public_key_pem, zone=optional_resource("zones", zone), watts=watts, labels=labels
    )
    request = pb.RegisterNodeRequest(node_id=node_id.removeprefix("nodes/"), node=node)
    return Operation(REGISTER_NODE, request, lambda answer: _read_node(answer.node), timeout)


def _list(*, page_size: int = 0) -> Listing[Node]:
    """Iterate over the caller's nodes, ordered by name."""

    def fetch(token: str) -> Operation[Page[Node]]:
        return Operation(LIST_NODES, pb.ListNodesRequest(page_size=page_size, page_token=token), _read_nodes)

    return Listing(fetch)


def _get(name: str, *, timeout: float | None = None) -> Operation[Node]:
    """Return one node; `site-1` and `nodes/site-1` mean the same.

    Raises:
        NotFound: Reason `UNKNOWN_NODE`.
    """
    request = pb.GetNodeRequest(name=resource("nodes", name))
    return Operation(GET_NODE, request, lambda answer: _read_node(answer.node), timeout)


def _remove(name: str, *, timeout: float | None = None) -> Operation[None]:
    """Remove a node; it cannot join a run any more.

    Raises:
        NotFound: Reason `UNKNOWN_NODE`.
    """
    request = pb.RemoveNodeRequest(name=resource("nodes", name))
    return Operation(REMOVE_NODE, request, lambda _answer: None, timeout)


def _read_nodes(answer: pb.ListNodesResponse) -> Page[Node]:
    return Page([_read_node(node) for node in answer.nodes], answer.next_page_token)


def _read_node(node: pb.Node) -> Node:
    return Node(
        name=node.name,
        public_key_pem=node.public_key_pem,
        zone=node.zone,
        state=enum_name(pb.Node.State, node.state),
        last_active_time=moment(node, "last_active_time"),
        create_time=moment(node, "create_time"),
        watts=node.watts,
        labels=dict(node.labels),
    )


class NodesSurface:
    register = unary(_register)
    list = stream(_list)
    get = unary(_get)
    remove = unary(_remove)


class Nodes(NodesSurface, SyncApi):
    """`Client.nodes`."""


class AsyncNodes(NodesSurface, AsyncApi):
    """`AsyncClient.nodes`."""
