"""An MCP server elsewhere, as a source of tools: how it is reached, what it offers, how a call goes there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    PARSE_ERROR,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
)
from mcp_types import Tool as RemoteTool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from aegis_agent.adapters.mcp.upstream_http import upstream_client
from aegis_agent.domain.call import Call, Progress
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import ToolFailed
from aegis_common.canonical import canonical_json
from aegis_common.errors import AegisError, ErrorKind

MAX_TOOLS: Final = 1000
"""Most tools that one server may list."""
_ASK: Final = "auto"
_LIST_S: Final = 30.0
_MAX_PAGES: Final = 100
_RETRY_AFTER: Final = timedelta(seconds=5)
_MAX_TEXT: Final = 300
_MAX_MESSAGE: Final = 4096
_log: Final = logging.getLogger(__name__)


class UpstreamUnavailable(AegisError):
    """The server that has the tool cannot be reached."""

    kind = ErrorKind.UNAVAILABLE
    reason = "MCP_SERVER_UNAVAILABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamOptions:
    """One MCP server whose tools are offered.

    Attributes:
        name: For logs and messages.
        url: Its streamable HTTP endpoint.
        prefix: Put before the name of each of its tools.
        allow: Names of its tools that are offered, as it has them; `*` is all of them.
        pins: Name of a tool to the SHA-256 of its definition; a tool with another one is not offered.
        concurrency: Most calls to it at once.
        queue_size: Most calls of one of its tools that wait.
        timeout: Longest time of a call.
        token_file: File with a bearer token for it, or None.
        ca: CA certificates for it, or None for the system's.
    """

    name: str
    url: str
    prefix: str = ""
    allow: tuple[str, ...]
    pins: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 4
    queue_size: int = 16
    timeout: timedelta = timedelta(seconds=60)
    token_file: Path | None = None
    ca: Path | None = None


def digest_of(tool: RemoteTool) -> str:
    """Return the SHA-256 of what counts of a tool; errors as of `definition_of`."""
    return hashlib.sha256(definition_of(tool)).hexdigest()


def definition_of(tool: RemoteTool) -> bytes:
    """Return what counts of a tool as canonical JSON: name, description, schemas, that it may be repeated.

    Raises:
        ValueError, TypeError, RecursionError: It has no canonical form.
    """
    said: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description or "",
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
    }
    if may_be_repeated(tool):
        said["idempotent"] = True
    return canonical_json(said)


def may_be_repeated(tool: RemoteTool) -> bool:
    """Tell whether the server says that calling the tool again does no harm."""
    hints = tool.annotations
    return bool(hints and (hints.idempotent_hint or hints.read_only_hint))


class Upstream:
    """One server. Each call is an MCP connection of its own, over shared sockets."""

    def __init__(self, options: UpstreamOptions) -> None:
        self.options: Final = options
        self._http = upstream_client(
            ca=options.ca,
            token_file=options.token_file,
            concurrency=options.concurrency,
            timeout_s=options.timeout.total_seconds(),
        )
        self._slots = asyncio.Semaphore(options.concurrency)
        self._mode = _ASK
        self._parting: set[asyncio.Task[CallToolResult]] = set()

    async def close(self) -> None:
        """Close the connections; calls that were cancelled are no longer waited for."""
        for task in self._parting:
            task.cancel()
        await asyncio.gather(*self._parting, return_exceptions=True)
        await self._http.aclose()

    async def tools(self) -> list[RemoteTool]:
        """Return all tools that the server lists.

        Raises:
            UpstreamUnavailable: It cannot be reached, or what it says cannot be read.
        """
        try:
            async with asyncio.timeout(_LIST_S), self._client() as client:
                return await self._listed(client)
        except TimeoutError as error:
            raise self._unavailable(f"did not list its tools within {_LIST_S:g} s") from error

    async def _listed(self, client: Client) -> list[RemoteTool]:
        found: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if len(found) > MAX_TOOLS:
                raise self._unavailable(f"lists more than {MAX_TOOLS} tools")
            if cursor is None:
                break
        return found

    async def call(self, name: str, call: Call) -> CallToolResult:
        """Call a tool. When this is cancelled, so is the call at the server; nobody waits until it knows.

        Raises:
            ToolFailed: The server answers with an error, or with what is no result.
            UpstreamUnavailable: It cannot be reached.
        """
        task = asyncio.get_running_loop().create_task(self._called(name, call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._parting.add(task)
            task.add_done_callback(self._parted)
            task.cancel()
            raise

    def _parted(self, task: asyncio.Task[CallToolResult]) -> None:
        self._parting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("a cancelled call ended with an error", extra={"error": str(error)})

    async def _called(self, name: str, call: Call) -> CallToolResult:
        async def progress(progress: float, total: float | None, message: str | None) -> None:
            await call.sink(Progress(done=progress, total=total, message=(message or "")[:_MAX_MESSAGE]))

        params = CallToolRequestParams(name=name, arguments=_plain(call.arguments))
        request = CallToolRequest(params=params)
        async with self._slots, self._client() as client:
            # Not `client.call_tool`: it lists the tools again, and checks the result in the event loop
            # against whatever schema the server has by now.
            send = client.session.send_request
            try:
                return await send(request, CallToolResult, progress_callback=progress)
            except MCPError as error:
                if error.error.code != HEADER_MISMATCH:
                    raise
            await self._listed(client)  # it says which arguments have to stand in headers too
            return await send(request, CallToolResult, progress_callback=progress)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        transport = streamable_http_client(self.options.url, http_client=self._http)
        try:
            async with Client(transport, mode=self._mode, cache=None) as client:
                if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    self._mode = client.protocol_version  # from now on without asking first
                yield client
        except (Exception, BaseExceptionGroup) as error:
            self._mode = _ASK  # it may be another server by now
            raise self._told(_first(error)) from error

    def _told(self, error: BaseException) -> BaseException:
        """Return what our caller is told of an error of the SDK's client."""
        name = self.options.name
        if isinstance(error, MCPError) and error.error.code not in (CONNECTION_CLOSED, PARSE_ERROR):
            text = f"MCP server {name!r} refused: {str(error)[:_MAX_TEXT]}"
            return ToolFailed(text, server=name, error="MCPError")
        if isinstance(error, ValidationError):
            text = f"MCP server {name!r} answered what is no result: {str(error)[:_MAX_TEXT]}"
            return ToolFailed(text, server=name, error="ValidationError")
        if isinstance(error, MCPError | httpx2.HTTPError | httpx2.StreamError | OSError | TimeoutError):
            return self._unavailable(f"cannot be reached: {str(error)[:_MAX_TEXT] or type(error).__name__}")
        return error

    def _unavailable(self, what: str) -> UpstreamUnavailable:
        name = self.options.name
        return UpstreamUnavailable(f"MCP server {name!r} {what}", server=name, retry_after=_RETRY_AFTER)


class RemoteRunner:
    """Runs the calls of one tool of a server; a `Runner` of the domain."""

    def __init__(self, upstream: Upstream, name: str) -> None:
        self._upstream = upstream
        self._name = name

    async def run(self, call: Call) -> Any:
        result = await self._upstream.call(self._name, call)
        if result.is_error:
            text = " ".join(block.text for block in result.content if block.type == "text")
            raise ToolFailed(f"tool {self._name!r} failed: {text[:500]}", tool=self._name, error="remote")
        if result.structured_content is not None:
            return result.structured_content
        try:
            values = [_value(block) for block in result.content]
        except ValueError as error:
            text = f"tool {self._name!r} gave content that is no base64"
            raise ToolFailed(text, tool=self._name, error="content") from error
        return values[0] if len(values) == 1 else values

    async def close(self) -> None:
        """Nothing is held: the server's connections are shared."""


def _value(block: Any) -> Any:
    if block.type == "text":
        return block.text
    if block.type in ("image", "audio"):
        return Content(base64.b64decode(block.data, validate=True), block.mime_type)
    if block.type == "resource":
        resource = block.resource
        blob = getattr(resource, "blob", None)
        return (
            Content(base64.b64decode(blob, validate=True), resource.mime_type or "")
            if blob
            else resource.text
        )
    return {"uri": str(block.uri), "name": block.name}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
