"""Keeps the tools of MCP servers elsewhere among our own: only what is allowed, only as it was pinned."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

from mcp_types import Tool as RemoteTool

from aegis_agent.adapters.foreign_schemas import check_foreign
from aegis_agent.adapters.mcp.upstream import (
    RemoteRunner,
    Upstream,
    UpstreamOptions,
    definition_of,
    digest_of,
    may_be_repeated,
)
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.errors import InvalidTool
from aegis_agent.domain.registry import EVERYONE, Registry
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec
from aegis_common.background import Every
from aegis_common.errors import AegisError

_FIRST_LOOK_S: Final = 5.0
_MAX_TOLD: Final = 10_000
_MAX_PINS: Final = 10_000
_MAX_NAME: Final = 100
_MAX_NAMES: Final = 5
_MAX_SAID_BYTES: Final = 4 << 20
_MAX_DESCRIPTION: Final = 16 << 10
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
        self._offered: dict[str, dict[str, _Offered]] = {server.name: {} for server in servers}
        self._told: set[tuple[str, ...]] = set()
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
        good = self._good(options, listed)
        offered = self._offered[options.name]
        for name in [name for name, kept in offered.items() if kept.what != _what(good.get(name))]:
            self._withdraw(options, name, offered.pop(name))
        for name, remote in good.items():
            if name not in offered and (tool := self._offer(upstream, name, remote)) is not None:
                offered[name] = _Offered(_what(remote), tool)

    def _good(self, options: UpstreamOptions, listed: Sequence[RemoteTool]) -> dict[str, RemoteTool]:
        """Return the tools to offer, by our names; of those that would have one name, none."""
        found: dict[str, list[RemoteTool]] = {}
        for tool in listed:
            if "*" in options.allow or tool.name in options.allow:
                found.setdefault(_local_name(options.prefix, tool.name), []).append(tool)
        good, room = {}, _MAX_SAID_BYTES
        for name, tools in found.items():
            if len(tools) > 1:
                told = ", ".join(sorted({tool.name[:_MAX_NAME] for tool in tools})[:_MAX_NAMES])
                self._tell(options, name, f"of several tools: {told}")
            elif self._is_as_pinned(options, tools[0]):
                room -= len(definition_of(tools[0]))
                if room >= 0:
                    good[name] = tools[0]
                else:
                    self._tell(
                        options, name, f"the tools of one server may say {_MAX_SAID_BYTES} bytes together"
                    )
        return good

    def _withdraw(self, options: UpstreamOptions, name: str, kept: _Offered) -> None:
        found = self._registry.owned(name, owner=EVERYONE)
        if found is None or found.tool is not kept.tool:
            return  # another tool has taken its place since
        self._retire(name)
        _log.warning("tool of an mcp server withdrawn", extra={"server": options.name, "tool": name})

    def _is_as_pinned(self, options: UpstreamOptions, tool: RemoteTool) -> bool:
        name = tool.name[:_MAX_NAME]
        try:
            digest = digest_of(tool)
        except (ValueError, TypeError, RecursionError) as error:
            self._tell(options, name, str(error))
            return False
        pins = self._pins[options.name]
        if tool.name not in pins and len(pins) >= _MAX_PINS:
            self._tell(options, "", f"{_MAX_PINS} names have been seen; it is made to run out of memory")
            return False
        pinned = pins.setdefault(tool.name, digest)
        extra = {"server": options.name, "tool": name, "digest": digest, "pinned": pinned}
        if self._is_new(options.name, name, digest):
            if pinned != digest:
                _log.error("tool of an mcp server has changed and is not offered; pin it anew", extra=extra)
            elif tool.name not in options.pins:
                _log.warning("tool of an mcp server is not pinned; taken as it is now", extra=extra)
        return pinned == digest

    def _offer(self, upstream: Upstream, name: str, remote: RemoteTool) -> Tool | None:
        try:
            tool = _tool(upstream, name, remote)
            self._registry.add(tool)
        except AegisError as error:
            self._tell(upstream.options, name, error.message)
            return None
        return tool

    def _tell(self, options: UpstreamOptions, name: str, error: str) -> None:
        if self._is_new(options.name, name, error):
            extra = {"server": options.name, "tool": name, "error": error}
            _log.error("tool of an mcp server cannot be offered", extra=extra)

    def _is_new(self, *what: str) -> bool:
        """Tell whether something has not been logged yet; a server cannot make that list grow for ever."""
        if what in self._told or len(self._told) >= _MAX_TOLD:
            return False
        self._told.add(what)
        return True


@dataclass(frozen=True, slots=True)
class _Offered:
    """A tool as it is offered, and what it is at its server."""

    what: tuple[str, str] | None
    tool: Tool


def _what(remote: RemoteTool | None) -> tuple[str, str] | None:
    return None if remote is None else (remote.name, digest_of(remote))


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _local_name(prefix: str, remote: str) -> str:
    """Return our name of a server's tool: ours have lower-case letters, digits, `_`, `.` and `-` only."""
    return _OTHER.sub("_", f"{prefix}{remote}".lower())


def _tool(upstream: Upstream, name: str, remote: RemoteTool) -> Tool:
    options = upstream.options
    if len(remote.description or "") > _MAX_DESCRIPTION:
        raise InvalidTool(f"tool {name!r}: its description is longer than {_MAX_DESCRIPTION} characters")
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
        idempotent=may_be_repeated(remote),
        tags=("mcp", options.name),
        runs_in=RunsIn.LOOP,
    )
    return Tool(
        spec=spec, runner=RemoteRunner(upstream, remote.name), checks=SchemaChecks(spec, foreign=True)
    )
