"""The MCP endpoint: the SDK's server and its streamable HTTP transport, behind one route of the listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.adapters.http.routes import MAX_BODY_BYTES, Request, Route
from aegis_agent.adapters.mcp.guard import guard, refused_by_http
from aegis_agent.adapters.mcp.listening import Listening
from aegis_agent.adapters.mcp.operations import error_response, operation_of
from aegis_agent.adapters.mcp.resources import ResourceHandlers
from aegis_agent.adapters.mcp.tasks import EXTENSION, TaskHandlers, TaskParams
from aegis_agent.adapters.mcp.tools import ToolHandlers
from aegis_agent.domain.dispatch import Dispatcher
from aegis_agent.domain.jobs.service import Jobs
from aegis_agent.domain.registry import EVERYONE, Registry
from aegis_agent.domain.tool import MAX_TIMEOUT, JsonSchema
from aegis_common.errors import PermissionDenied

PATH: Final = "/mcp"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_HTTPS: Final = 443
_FRESH_MS: Final = 30_000
_INSTRUCTIONS: Final = (
    "Tools of this AEGIS deployment. A call that fails says why in its result, with the reason in `_meta`. "
    "When the service is busy, try again after the time that it names."
)


def challenge(public_url: str) -> str:
    """Return the parameter of `www-authenticate` that says where clients learn how to sign in, or empty."""
    if not public_url:
        return ""
    return f'resource_metadata="{public_url.rstrip("/")}/.well-known/oauth-protected-resource{PATH}"'


class OriginNotAllowed(PermissionDenied):
    """A browser's page of another site, or a name that is not ours: DNS rebinding looks like that."""

    reason = "ORIGIN_NOT_ALLOWED"


class McpDoor:
    """Serves MCP at `/mcp`, without sessions, so that any replica can take any request.

    Args:
        registry: The tools.
        dispatcher: Runs them.
        public_url: Where clients reach the gateway, `https://host[:port]`; its host and origin are accepted.
            A browser's request must name that host; if empty, `Host` is not looked at.
        origins: More origins whose pages may call, for example `https://console.example.org`.
        page_size: Most tools on a page of `tools/list`.
        artifacts: What is offered as resources; None offers none.
        jobs: What is offered as tasks; None offers none.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        *,
        public_url: str = "",
        origins: Sequence[str] = (),
        page_size: int = 100,
        artifacts: StoredArtifacts | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        tasks = TaskHandlers(jobs, registry) if jobs else None
        handlers = ToolHandlers(registry, dispatcher, page_size=page_size, tasks=tasks)
        self._listening = Listening(registry)
        self.server: Final[Server[Any]] = Server(
            "aegis-agent",
            version=version("aegis-agent"),
            title="AEGIS",
            instructions=_INSTRUCTIONS,
            cache_hints={"tools/list": CacheHint(ttl_ms=_FRESH_MS, scope="private")},
            get_tool_input_schema=lambda name: _everyones_schema(registry, name),
            on_list_tools=handlers.list,
            on_subscriptions_listen=self._listening.serve,
        )
        self.server.add_request_handler("tools/call", CallToolRequestParams, handlers.call)
        self.server.middleware = [guard]
        if artifacts is not None:
            _offer_resources(self.server, ResourceHandlers(artifacts))
        if tasks is not None:
            _offer_tasks(self.server, tasks)
        self._manager = StreamableHTTPSessionManager(
            self.server, stateless=True, max_request_body_size=MAX_BODY_BYTES
        )
        self._origins = frozenset([*origins, *([_origin(public_url)] if public_url else [])])
        self._host = urlsplit(public_url).hostname or ""

    def routes(self) -> list[Route]:
        """Return what the HTTP listener has to serve."""
        timeout_s = MAX_TIMEOUT.total_seconds()
        return [
            Route(
                "POST", PATH, operation_of, self._serve, default_timeout_s=timeout_s, on_error=error_response
            )
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve requests as long as the block runs."""
        started, leaving = asyncio.Event(), asyncio.Event()

        async def run() -> None:  # a task group has to end in the task in which it began
            async with self._manager.run():
                started.set()
                await leaving.wait()

        task = asyncio.get_running_loop().create_task(run(), name="mcp")
        await started.wait()
        try:
            yield
        finally:
            leaving.set()
            await task

    def leave(self) -> None:
        """End the streams of those who listen for changes, so that a drain need not wait for them."""
        self._listening.close()

    async def _serve(self, request: Request) -> ASGIApp:
        self._check_origin(request)
        return self._answered

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                refused_by_http(scope, message["status"])
            await send(message)

        await self._manager.asgi_app(scope, receive, watched)

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin", "")
        if not origin:
            return  # no browser: it would send one with every POST
        if origin not in self._origins:
            raise OriginNotAllowed(f"pages of {origin!r} may not call this endpoint", origin=origin)
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if self._host and host not in {self._host, *_LOOPBACK}:
            raise OriginNotAllowed(f"{host!r} is not a name of this service", host=host)


def _everyones_schema(registry: Registry, name: str) -> JsonSchema | None:
    """Return the schema by which the SDK checks arguments that stand in headers as well (`x-mcp-header`)."""
    found = registry.owned(name, owner=EVERYONE)
    return found.tool.spec.input_schema if found else None


def _origin(url: str) -> str:
    """Return the origin of a URL as a browser writes it: without the port that goes without saying."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port and parts.port != _HTTPS else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _offer_resources(server: Server[Any], handlers: ResourceHandlers) -> None:
    server.add_request_handler("resources/list", PaginatedRequestParams, handlers.list)
    server.add_request_handler("resources/templates/list", PaginatedRequestParams, handlers.templates)
    server.add_request_handler("resources/read", ReadResourceRequestParams, handlers.read)


def _offer_tasks(server: Server[Any], handlers: TaskHandlers) -> None:
    server.extensions[EXTENSION] = {}
    server.add_request_handler("tasks/get", TaskParams, handlers.get)
    server.add_request_handler("tasks/update", TaskParams, handlers.update)
    server.add_request_handler("tasks/cancel", TaskParams, handlers.cancel)
