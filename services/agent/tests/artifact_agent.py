"""An agent with an artifact store over real mutual TLS, and what its callers do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.struct_pb2 import Struct

from aegis.agent.v1 import agent_service_pb2 as agent_pb
from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1 import artifact_service_pb2 as pb
from aegis.agent.v1 import artifact_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_common.errors import ErrorKind
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.testing.pki import Mesh

MIB = 1 << 20


class Service:
    """A running agent, and stubs by account."""

    def __init__(self, mesh: Mesh, port: int) -> None:
        self.mesh = mesh
        self.port = port
        self.channels: list[grpc.aio.Channel] = []

    def artifacts(self, account: str = "sdk") -> pb_grpc.ArtifactServiceAsyncStub:
        return pb_grpc.ArtifactServiceStub(self.channel(account))

    def agent(self, account: str = "sdk") -> agent_grpc.AgentServiceAsyncStub:
        return agent_grpc.AgentServiceStub(self.channel(account))

    def channel(self, account: str) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.port}"
        self.channels.append(mesh_channel(target, service="agent", tls=self.mesh.tls(account)))
        return self.channels[-1]

    async def run(self, tool: str, *parts: part_pb2.Part, **arguments: Any) -> agent_pb.DispatchResponse:
        payload = list(parts)
        if arguments:
            struct = Struct()
            struct.update(arguments)
            payload.append(part_pb2.Part(json=struct))
        request = agent_pb.DispatchRequest(tool=f"tools/{tool}", payload=payload)
        return await self.agent().Dispatch(request)


async def upload(
    service: Service, data: bytes, *, account: str = "sdk", piece: int = MIB, **fields: Any
) -> pb.Artifact:
    async def requests() -> AsyncIterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(**fields)
        for start in range(0, len(data), piece):
            content = HttpBody(data=data[start : start + piece])
            yield pb.UploadArtifactRequest(content=content)

    answer = await service.artifacts(account).UploadArtifact(requests())
    return answer.artifact


async def download(service: Service, name: str, *, account: str = "sdk", **fields: Any) -> bytes:
    request = pb.DownloadArtifactRequest(name=name, **fields)
    pieces = [item async for item in service.artifacts(account).DownloadArtifact(request)]
    return b"".join(piece.content.data for piece in pieces)


async def failure(call: Awaitable[Any]) -> tuple[ErrorKind, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = details_of(caught.value)
    return details.kind, details.reason, details.metadata
