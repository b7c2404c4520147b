"""`tools/list` and `tools/call`: the registry and the dispatcher, in MCP's words."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Final

from mcp.server.connection import allowed_log_levels
from mcp.server.context import ServerRequestContext
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    PaginatedRequestParams,
    ToolAnnotations,
)
from mcp_types import Tool as McpTool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from aegis_agent.adapters.mcp.content import blocks, kept, output_schema, references, structured
from aegis_agent.adapters.mcp.errors import is_of_the_tool, tool_error
from aegis_agent.adapters.mcp.guard import failed
from aegis_agent.adapters.mcp.operations import DISPATCH
from aegis_agent.adapters.mcp.tasks import TaskHandlers
from aegis_agent.domain.call import Caller, Event, LogLine, Progress, Sink
from aegis_agent.domain.dispatch import Action, Dispatcher
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import Tool
from aegis_common.auth.authorize import authorize
from aegis_common.errors import AegisError
from aegis_common.paging import page
from aegis_common.rpc.access import method_table
from aegis_common.rpc.call import current_call

PAGE_SIZE: Final = 100
# The client's own deadline must not pass before our answer, with its reason, is there.
_MARGIN_S: Final = 0.05
_MARGIN_SHARE: Final = 0.1
_LEVELS: Final = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error"}

Context = ServerRequestContext[Any, Any]


class ToolHandlers:
    """Translate only: no decisions about tools."""

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        *,
        page_size: int = PAGE_SIZE,
        tasks: TaskHandlers | None = None,
    ) -> None:
        self._registry = registry
        self._tasks = tasks
        self._dispatcher = dispatcher
        self._page_size = page_size

    async def list(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """Return a page of the tools that the caller may call; none for whom the access table lets call none.

        Raises:
            InvalidPageToken: The cursor is of another list.
        """
        if not _may_call():
            return ListToolsResult(tools=[])
        caller = caller_of_call()
        found, cursor = page(
            self._registry.tools(caller=caller),
            key=lambda tool: tool.spec.name,
            size=self._page_size,
            token=(params.cursor if params else None) or "",
            query=f"mcp/tools/{caller.tenant}",
        )
        tools = [_tool(tool, ctx.protocol_version) for tool in found]
        return ListToolsResult(tools=tools, next_cursor=cursor or None)

    async def call(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult | dict[str, Any]:
        """Run a tool, or make a task of the call. What goes wrong in it is a result that the model sees.

        Raises:
            UnknownTool, ToolNotAllowed: The caller has no such tool.
        """
        caller = caller_of_call()
        tool = self._registry.find(params.name, caller=caller).tool
        arguments = references(params.arguments or {}, tool.spec.input_schema)
        action = Action(params.name, arguments)
        try:
            if self._tasks is not None and self._tasks.wanted(ctx, tool):
                return await self._tasks.create(tool, arguments)
            result = await self._dispatcher.dispatch(
                action, caller=caller, time_left=time_left(), sink=_sink(ctx, params.name)
            )
            artifacts = self._dispatcher.artifacts(caller) if self._dispatcher.artifacts else None
            value = await kept(result.value, artifacts, tool=params.name)
        except AegisError as error:
            if not is_of_the_tool(error):
                raise
            failed(ctx, error)
            return tool_error(error)
        return CallToolResult(
            content=await offloaded(blocks, value),
            structured_content=structured(value, result.tool.spec.output_schema, ctx.protocol_version),
            _meta=_about(result.tool, cached=result.cached),
        )


def caller_of_call() -> Caller:
    """Return the caller of the call that this task serves, as the core has it."""
    principal = current_call().principal
    return Caller(tenant=principal.tenant, subject=principal.subject, roles=principal.roles)


def _may_call() -> bool:
    call = current_call()
    try:
        authorize(method_table()[DISPATCH], call.principal, peer_spiffe_id=call.peer_spiffe_id)
    except AegisError:
        return False
    return True


def time_left() -> timedelta:
    """Return the time until the call's deadline, with a margin for the answer."""
    left = current_call().time_remaining()
    return timedelta(seconds=max(0.0, left - min(_MARGIN_S, left * _MARGIN_SHARE)))


def _tool(tool: Tool, version: str) -> McpTool:
    spec = tool.spec
    return McpTool(
        name=spec.name,
        description=spec.description or None,
        input_schema=dict(spec.input_schema),
        output_schema=output_schema(spec.output_schema, version),
        annotations=ToolAnnotations(idempotent_hint=True) if spec.idempotent else None,
        _meta={
            "aegis.dev/version": spec.version,
            "aegis.dev/max_timeout_s": spec.max_timeout.total_seconds(),
            **({"aegis.dev/tags": list(spec.tags)} if spec.tags else {}),
            **({"aegis.dev/model": f"models/{spec.model}"} if spec.model else {}),
        },
    )


def _about(tool: Tool, *, cached: bool) -> dict[str, Any]:
    about: dict[str, Any] = {"aegis.dev/tool_version": tool.spec.version}
    if tool.spec.model:
        about["aegis.dev/model_version"] = f"models/{tool.spec.model}/versions/{tool.model_version}"
    if tool.warnings:
        about["aegis.dev/warnings"] = list(tool.warnings)
    if cached:
        about["aegis.dev/cached"] = True
    return about


def _sink(ctx: Context, tool: str) -> Sink:
    """Pass on progress, which MCP wants to grow, and the log lines that the request asked for."""
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    levels = allowed_log_levels(ctx.protocol_version, ctx.meta) if modern else frozenset()
    last: float | None = None

    async def take(event: Event) -> None:
        nonlocal last
        if isinstance(event, Progress) and math.isfinite(event.done) and (last is None or event.done > last):
            last = event.done
            total = event.total if math.isfinite(event.total or 0) else None
            await ctx.session.report_progress(event.done, total, event.message or None)
        elif isinstance(event, LogLine) and (level := _LEVELS.get(event.level, "info")) in levels:
            params = LoggingMessageNotificationParams(level=level, data=event.message, logger=tool)
            await ctx.session.send_notification(LoggingMessageNotification(params=params), ctx.request_id)

    return take
