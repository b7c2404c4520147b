"""A ToolFileService for the tests of SDK and command line."""

from __future__ import annotations

from typing import Any

from aegis.agent.v1 import replica_pb2 as replica
from aegis.agent.v1 import tool_file_service_pb2 as pb
from aegis.agent.v1 import tool_file_service_pb2_grpc as pb_grpc


class ToolFiles(pb_grpc.ToolFileServiceServicer):
    """Each file brings the tool of its own name."""

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        states = replica.ReplicaStatus
        self.replicas = [
            replica.ReplicaStatus(replica="agent-1", state=states.STATE_LIVE),
            replica.ReplicaStatus(replica="agent-2", state=states.STATE_REFUSED, message="no such package"),
        ]

    def _file(self, name: str) -> pb.ToolFile:
        tools = [name.replace("toolFiles/", "tools/")]
        size = len(self.sources[name])
        return pb.ToolFile(name=name, tools=tools, sha256="d" * 64, size_bytes=size, creator="ann")

    async def PutToolFile(self, request: Any, context: Any) -> pb.PutToolFileResponse:
        self.sources[request.name] = request.source
        return pb.PutToolFileResponse(tool_file=self._file(request.name), replicas=self.replicas)

    async def ListToolFiles(self, request: Any, context: Any) -> pb.ListToolFilesResponse:
        return pb.ListToolFilesResponse(tool_files=[self._file(name) for name in sorted(self.sources)])

    async def GetToolFile(self, request: Any, context: Any) -> pb.GetToolFileResponse:
        return pb.GetToolFileResponse(tool_file=self._file(request.name), source=self.sources[request.name])

    async def DeleteToolFile(self, request: Any, context: Any) -> pb.DeleteToolFileResponse:
        del self.sources[request.name]
        return pb.DeleteToolFileResponse(replicas=self.replicas)
