"""An MCP server elsewhere, as a source of tools: how it is reached, what it offers, how a call goes there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED, CallToolResult
from mcp_types import Tool as RemoteTool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from aegis_agent.domain.call import Call, Progress
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import ToolFailed
from aegis_common.canonical import canonical_json
from aegis_common.errors import AegisError, ErrorKind

_LIST_S: Final = 30.0
_MAX_PAGES: Final = 100
_RETRY_AFTER: Final = timedelta(seconds=5)


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
    """Return the SHA-256 of what callers and models are told of a tool: name, description and schemas."""
    said = {
        "name": tool.name,
        "description": tool.description or "",
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
    }
    return hashlib.sha256(canonical_json(said)).hexdigest()


class Upstream:
    """One server. Each call is an MCP connection of its own, over shared sockets."""

    def __init__(self, options: UpstreamOptions) -> None:
        self.options: Final = options
        context = ssl.create_default_context(cafile=str(options.ca) if options.ca else None)
        self._http = httpx2.AsyncClient(
            verify=context,
            trust_env=False,
            timeout=httpx2.Timeout(10, read=options.timeout.total_seconds()),
            limits=httpx2.Limits(max_connections=options.concurrency + 1),
            event_hooks={"request": [self._sign]},
        )
        self._slots = asyncio.Semaphore(options.concurrency)
        self._mode = "auto"

    async def close(self) -> None:
        await self._http.aclose()

    async def tools(self) -> list[RemoteTool]:
        """Return all tools that the server lists.

        Raises:
            UpstreamUnavailable: It cannot be reached, or what it says cannot be read.
        """
        found: list[RemoteTool] = []
        async with asyncio.timeout(_LIST_S), self._client() as client:
            cursor: str | None = None
            for _ in range(_MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
        return found

    async def call(self, name: str, call: Call) -> CallToolResult:
        """Call a tool. When this is cancelled, so is the call at the server.

        Raises:
            ToolFailed: The server answers with an error.
            UpstreamUnavailable: It cannot be reached.
        """

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            await call.sink(Progress(done=progress, total=total, message=message or ""))

        async with self._slots, self._client() as client:
            return await client.call_tool(name, _plain(call.arguments), progress_callback=progress)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        transport = streamable_http_client(self.options.url, http_client=self._http)
        try:
            async with Client(transport, mode=self._mode, cache=None) as client:
                if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    self._mode = client.protocol_version  # from now on without asking first
                yield client
        except (Exception, BaseExceptionGroup) as error:
            raise self._told(_first(error)) from error

    def _told(self, error: BaseException) -> BaseException:
        """Return what our caller is told of an error of the SDK's client."""
        name = self.options.name
        if isinstance(error, MCPError) and error.error.code != CONNECTION_CLOSED:
            return ToolFailed(f"MCP server {name!r} refused: {error}", server=name, error="MCPError")
        if isinstance(error, MCPError | httpx2.HTTPError | OSError | TimeoutError):
            return UpstreamUnavailable(
                f"MCP server {name!r} cannot be reached: {str(error) or type(error).__name__}",
                server=name,
                retry_after=_RETRY_AFTER,
            )
        return error

    async def _sign(self, request: httpx2.Request) -> None:
        if self.options.token_file is not None:
            text = await asyncio.to_thread(self.options.token_file.read_text, "ascii")
            request.headers["authorization"] = f"Bearer {text.strip()}"


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
        values = [_value(block) for block in result.content]
        return values[0] if len(values) == 1 else values

    async def close(self) -> None:
        """Nothing is held: the server's connections are shared."""


def _value(block: Any) -> Any:
    if block.type == "text":
        return block.text
    if block.type in ("image", "audio"):
        return Content(base64.b64decode(block.data), block.mime_type)
    if block.type == "resource":
        resource = block.resource
        blob = getattr(resource, "blob", None)
        return Content(base64.b64decode(blob), resource.mime_type or "") if blob else resource.text
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
