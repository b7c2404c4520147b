"""Files of tools that admins put and remove while agents run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from aegis.agent.v1 import tool_file_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.surface import stream, unary
from aegis_client.core.values import moment, resource
from aegis_client.replicas import ReplicaStatus, read_replicas

PUT_FILE: Final = method(pb, "ToolFileService", "PutToolFile", pb.PutToolFileResponse)
LIST_FILES: Final = method(pb, "ToolFileService", "ListToolFiles", pb.ListToolFilesResponse)
GET_FILE: Final = method(pb, "ToolFileService", "GetToolFile", pb.GetToolFileResponse)
DELETE_FILE: Final = method(pb, "ToolFileService", "DeleteToolFile", pb.DeleteToolFileResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFile:
    """A Python file whose `@tool` functions every agent serves.

    Attributes:
        name: `toolFiles/{file}`.
        tools: `tools/{tool}` of each tool that it brings.
        sha256: Of the source, 64 lower-case hex digits.
        creator: Who put it.
        source: Its text, where one file was asked for; else None.
        replicas: After `put_file`: how far each agent is with it; else empty.
    """

    name: str
    tools: tuple[str, ...]
    sha256: str
    size_bytes: int
    creator: str
    create_time: datetime | None
    source: bytes | None = None
    replicas: tuple[ReplicaStatus, ...] = ()


def _put(path: Path | str, *, name: str = "", timeout: float | None = None) -> Operation[ToolFile]:
    """Serve the `@tool` functions of a Python file on all agents, in the place of what the file was before.

    It waits up to 5 s for the other agents; the answer's `replicas` say how far they are.

    Args:
        path: The file, at most 1 MiB; it imports packages that the agents have, and no other file.
        name: Letters, digits and `_`; the file's name without `.py` if empty.
        timeout: Deadline of the call, in seconds.

    Raises:
        InvalidArgument: Reason `INVALID_TOOL_FILE`: it cannot be served; the message names the line.
        AlreadyExists: Reason `TOOL_NAME_TAKEN`.
        FailedPrecondition: Reason `TOOL_FILES_DISABLED`: the operator has not allowed it.
        OSError: The file cannot be read.
    """
    path = Path(path)
    request = pb.PutToolFileRequest(name=_resource(name or path.stem), source=path.read_bytes())
    return Operation(
        PUT_FILE,
        request,
        lambda answer: replace(_read(answer.tool_file), replicas=read_replicas(answer.replicas)),
        timeout,
    )


def _files(*, page_size: int = 0) -> Listing[ToolFile]:
    """Iterate over the caller's tool files, ordered by name.

    Raises:
        FailedPrecondition: Reason `TOOL_FILES_DISABLED`.
    """

    def fetch(token: str) -> Operation[Page[ToolFile]]:
        request = pb.ListToolFilesRequest(page_size=page_size, page_token=token)
        return Operation(LIST_FILES, request, _read_page)

    return Listing(fetch)


def _file(name: str, *, timeout: float | None = None) -> Operation[ToolFile]:
    """Return one tool file with its source; `shout`, `shout.py` and `toolFiles/shout` mean the same.

    Raises:
        NotFound: Reason `UNKNOWN_TOOL_FILE`.
    """
    request = pb.GetToolFileRequest(name=_resource(name))
    return Operation(
        GET_FILE, request, lambda answer: replace(_read(answer.tool_file), source=answer.source), timeout
    )


def _remove(name: str, *, timeout: float | None = None) -> Operation[tuple[ReplicaStatus, ...]]:
    """Serve a tool file no longer; return how far each agent is. Calls that run end.

    Raises:
        NotFound: Reason `UNKNOWN_TOOL_FILE`.
    """
    request = pb.DeleteToolFileRequest(name=_resource(name))
    return Operation(DELETE_FILE, request, lambda answer: read_replicas(answer.replicas), timeout)


def _resource(name: str) -> str:
    return resource("toolFiles", name.removesuffix(".py"))


def _read_page(answer: pb.ListToolFilesResponse) -> Page[ToolFile]:
    return Page([_read(item) for item in answer.tool_files], answer.next_page_token)


def _read(item: pb.ToolFile) -> ToolFile:
    return ToolFile(
        name=item.name,
        tools=tuple(item.tools),
        sha256=item.sha256,
        size_bytes=item.size_bytes,
        creator=item.creator,
        create_time=moment(item, "create_time"),
    )


class ToolFilesSurface:
    put_file = unary(_put, reads_files=True)
    files = stream(_files)
    file = unary(_file)
    remove_file = unary(_remove)
