"""Keeps the tools of MCP servers elsewhere among our own: only what is allowed, only as it was pinned."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final, Self

from mcp_types import Tool as RemoteTool

from aegis_agent.adapters.foreign_schemas import check_foreign
from aegis_agent.adapters.mcp.upstream import RemoteRunner, Upstream, UpstreamOptions, digest_of
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec
from aegis_common.background import Every
from aegis_common.errors import AegisError

_FIRST_LOOK_S: Final = 5.0
_OTHER: Final = re.compile(r"[^a-z0-9_.-]")
# Text, media, or anything: what a tool without an output schema may give.
_ANYTHING: Final[dict[str, Any]] = {"anyOf": [{"type": "string", "contentEncoding": "base64"}, {}]}
_log: Final = logging.getLogger(__name__)


class Mounts:
    """The tools of all servers; use as an async context manager.

    A tool whose definition is not the pinned one is not offered. One without a pin is taken as it is first
    seen in this process, and its digest is logged; when the server changes it later, it is withdrawn, not
    taken over. What was withdrawn comes back when the server takes the change back, or the pin is changed.

    Args:
        registry: Where they are offered, to everyone.
        servers: The servers.
        retire: Takes a tool out of the registry and lets its calls end.
        refresh: Pause between two looks at what the servers list.
    """

    def __init__(
        self,
        registry: Registry,
        servers: Sequence[UpstreamOptions],
        *,
        retire: Callable[[str], object],
        refresh: timedelta = timedelta(minutes=1),
    ) -> None:
        self._registry = registry
        self._retire = retire
        self._upstreams = [Upstream(server) for server in servers]
        self._pins = {server.name: dict(server.pins) for server in servers}
        self._offered: dict[str, set[str]] = {server.name: set() for server in servers}
        self._told: set[tuple[str, str, str]] = set()
        self._every = Every(refresh, self.look, name="mcp servers")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for upstream in self._upstreams:
            self._stack.push_async_callback(upstream.close)
        if self._upstreams:
            # A server that hangs must not keep the agent from starting.
            first = asyncio.get_running_loop().create_task(self.look(), name="mcp servers, first look")
            self._stack.push_async_callback(_ended, first)
            await asyncio.wait({first}, timeout=_FIRST_LOOK_S)
            await self._stack.enter_async_context(self._every)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self) -> None:
        """Compare what the servers list with what is offered, and offer what has to be."""
        await asyncio.gather(*(self._look_at(upstream) for upstream in self._upstreams))

    async def _look_at(self, upstream: Upstream) -> None:
        options = upstream.options
        try:
            listed = await upstream.tools()
        except Exception as error:  # what a server elsewhere says must not stop the agent
            # Its tools stay: each call says that the server is away.
            _log.warning("mcp server not listed", extra={"server": options.name, "error": str(error)})
            return
        good = {}
        for tool in listed:
            if "*" in options.allow or tool.name in options.allow:
                name = _local_name(options.prefix, tool.name)
                if self._is_as_pinned(options, tool):
                    good[name] = tool
        offered = self._offered[options.name]
        for name in offered - good.keys():
            offered.discard(name)
            self._retire(name)
            _log.warning("tool of an mcp server withdrawn", extra={"server": options.name, "tool": name})
        for name in good.keys() - offered:
            if self._offer(upstream, name, good[name]):
                offered.add(name)

    def _is_as_pinned(self, options: UpstreamOptions, tool: RemoteTool) -> bool:
        digest = digest_of(tool)
        pins = self._pins[options.name]
        pinned = pins.setdefault(tool.name, digest)
        extra = {"server": options.name, "tool": tool.name, "digest": digest, "pinned": pinned}
        if (options.name, tool.name, digest) not in self._told:
            self._told.add((options.name, tool.name, digest))
            if pinned != digest:
                _log.error("tool of an mcp server has changed and is not offered; pin it anew", extra=extra)
            elif tool.name not in options.pins:
                _log.warning("tool of an mcp server is not pinned; taken as it is now", extra=extra)
        return pinned == digest

    def _offer(self, upstream: Upstream, name: str, remote: RemoteTool) -> bool:
        try:
            self._registry.add(_tool(upstream, name, remote))
        except AegisError as error:
            key = (upstream.options.name, name, error.reason)
            if key not in self._told:
                self._told.add(key)
                extra = {"server": upstream.options.name, "tool": name, "error": error.message}
                _log.error("tool of an mcp server cannot be offered", extra=extra)
            return False
        return True


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _local_name(prefix: str, remote: str) -> str:
    """Return our name of a server's tool: ours have lower-case letters, digits, `_`, `.` and `-` only."""
    return _OTHER.sub("_", f"{prefix}{remote}".lower())


def _tool(upstream: Upstream, name: str, remote: RemoteTool) -> Tool:
    options = upstream.options
    hints = remote.annotations
    spec = ToolSpec(
        name=name,
        description=remote.description or "",
        version=digest_of(remote)[:12],
        input_schema=check_foreign(remote.input_schema, tool=name, field="inputSchema"),
        output_schema=check_foreign(remote.output_schema or _ANYTHING, tool=name, field="outputSchema"),
        default_timeout=options.timeout,
        max_timeout=options.timeout,
        concurrency=options.concurrency,
        queue_size=options.queue_size,
        idempotent=bool(hints and (hints.idempotent_hint or hints.read_only_hint)),
        tags=("mcp", options.name),
        runs_in=RunsIn.LOOP,
    )
    return Tool(
        spec=spec, runner=RemoteRunner(upstream, remote.name), checks=SchemaChecks(spec, foreign=True)
    )
