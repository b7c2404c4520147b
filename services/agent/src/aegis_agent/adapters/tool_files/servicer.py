"""aegis.agent.v1.ToolFileService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from typing import Any, Final

import grpc.aio

from aegis.agent.v1 import tool_file_service_pb2 as pb
from aegis.agent.v1 import tool_file_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.replicas.answers import everywhere
from aegis_agent.domain.replicas import Replicas
from aegis_agent.domain.tool_files import FileId, ToolFile, ToolFiles
from aegis_common.paging import page
from aegis_common.rpc.call import current_call

_COLLECTION: Final = "toolFiles/"

Context = grpc.aio.ServicerContext[Any, Any]


class ToolFileServicer(pb_grpc.ToolFileServiceServicer):
    """Translate only: no decisions about files."""

    def __init__(self, files: ToolFiles, replicas: Replicas) -> None:
        self._files = files
        self._replicas = replicas

    async def PutToolFile(self, request: pb.PutToolFileRequest, context: Context) -> pb.PutToolFileResponse:
        done = await self._files.put(_file(request.name), request.source, by=_who())
        current_call().notes["sha256"] = done.value.sha256
        replicas = await everywhere(self._replicas, done.change)
        return pb.PutToolFileResponse(tool_file=_message(done.value), replicas=replicas)

    async def ListToolFiles(
        self, request: pb.ListToolFilesRequest, context: Context
    ) -> pb.ListToolFilesResponse:
        tenant = current_call().principal.tenant
        found, token = page(
            await self._files.files(owner=tenant),
            key=lambda item: item.file.name,
            size=request.page_size,
            token=request.page_token,
            query=f"ListToolFiles/{tenant}",
        )
        return pb.ListToolFilesResponse(tool_files=map(_message, found), next_page_token=token)

    async def GetToolFile(self, request: pb.GetToolFileRequest, context: Context) -> pb.GetToolFileResponse:
        found, source = await self._files.file(_file(request.name))
        return pb.GetToolFileResponse(tool_file=_message(found), source=source)

    async def DeleteToolFile(
        self, request: pb.DeleteToolFileRequest, context: Context
    ) -> pb.DeleteToolFileResponse:
        done = await self._files.remove(_file(request.name), by=_who())
        return pb.DeleteToolFileResponse(replicas=await everywhere(self._replicas, done.change))


def _file(name: str) -> FileId:
    """Return the file of the caller's tenant; the audit log gets its name."""
    call, file = current_call(), name.removeprefix(_COLLECTION)
    call.notes["tool_file"] = file
    return FileId(call.principal.tenant, f"{file}.py")


def _who() -> str:
    caller = current_call().principal
    return caller.subject or caller.spiffe_id


def _message(found: ToolFile) -> pb.ToolFile:
    message = pb.ToolFile(
        name=f"{_COLLECTION}{found.file.name.removesuffix('.py')}",
        tools=[f"tools/{name}" for name in found.tools],
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        creator=found.by,
    )
    message.create_time.FromDatetime(found.created_at)
    return message
