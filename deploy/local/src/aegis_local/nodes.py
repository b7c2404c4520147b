"""Registers the local sites' nodes, as an admin would, and asks whether they are online."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aegis_common.pki import server_dns
from aegis_fl_coordinator.flower import node_key
from aegis_local.credentials import NAMESPACE, site
from aegis_local.supervisor.child import StartFailed
from aegis_local.supervisor.spec import NotReady, Probe

if TYPE_CHECKING:
    from aegis_local.stack.layout import Layout

_TIMEOUT_S: Final = 10.0


@asynccontextmanager
async def _node_service(layout: Layout) -> AsyncIterator[Any]:
    import grpc

    from aegis.fl.v1 import node_service_pb2_grpc

    pair = layout.pair("admin")
    credentials = grpc.ssl_channel_credentials(
        layout.credentials.bundle.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
    )
    options = (("grpc.ssl_target_name_override", server_dns("gateway", NAMESPACE)),)
    async with grpc.aio.secure_channel(layout.address("machines"), credentials, options=options) as channel:
        yield node_service_pb2_grpc.NodeServiceStub(channel)


async def register_nodes(layout: Layout) -> None:
    """Register every site's key through the gateway; keys that are registered already change nothing.

    Raises:
        StartFailed: The coordinator refused one.
    """
    import grpc

    from aegis.fl.v1 import node_service_pb2 as pb

    async with _node_service(layout) as service:
        for number in range(1, layout.nodes + 1):
            node = pb.Node(public_key_pem=node_key(layout.credentials.node_key(site(number))))
            try:
                request = pb.RegisterNodeRequest(node_id=f"site-{number}", node=node)
                await service.RegisterNode(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise StartFailed(
                    f"node site-{number} could not be registered: {error.code().name}: {error.details()}"
                ) from error


def node_online(layout: Layout, name: str) -> Probe:
    """Ready when the coordinator says that the node *name* is online."""

    async def probe() -> None:
        import grpc

        from aegis.fl.v1 import node_service_pb2 as pb

        async with _node_service(layout) as service:
            try:
                answer = await service.GetNode(pb.GetNodeRequest(name=f"nodes/{name}"), timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise NotReady(f"{error.code().name}: {error.details()}") from error
        if answer.node.state != pb.Node.STATE_ONLINE:
            raise NotReady(f"the coordinator says {pb.Node.State.Name(answer.node.state)}")

    return probe
