"""The tools of an agent: what they take, and running them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis_client import parts as part_forms
from aegis_client.core.operation import Feed, Listing, Operation, Page, Step, method
from aegis_client.core.status import status_error
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import (
    duration,
    enum_name,
    enum_value,
    resource,
    span,
    time_limit,
    unstruct,
)
from aegis_client.errors import AegisApiError
from aegis_client.parts import Part, payload_of
from aegis_client.tool_events import ToolItem, ToolLog, ToolProgress, ToolStarted
from aegis_client.tool_files import ToolFilesSurface
from aegis_client.tool_functions import by_flat_name, make_function
from aegis_client.trace import last_trace_id

LIST_TOOLS: Final = method(pb, "AgentService", "ListTools", pb.ListToolsResponse)
GET_TOOL: Final = method(pb, "AgentService", "GetTool", pb.GetToolResponse)
DISPATCH: Final = method(pb, "AgentService", "Dispatch", pb.DispatchResponse)
DISPATCH_STREAM: Final = method(pb, "AgentService", "DispatchStream", pb.DispatchStreamResponse)
BATCH_DISPATCH: Final = method(pb, "AgentService", "BatchDispatch", pb.BatchDispatchResponse)

GRACE_S: Final = 2.0
"""How much longer the call waits than the tool may run, so that the answer that says why arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool.

    Attributes:
        name: `tools/{tool}`.
        input_schema: JSON Schema 2020-12 of the arguments.
        output_schema: JSON Schema 2020-12 of the result.
        default_timeout: Deadline of a call that brings none.
        concurrency: Most calls that run at once, in each place that `concurrency_scope` names.
        concurrency_scope: `REPLICA`: each agent process; `WORKER`: each remote worker, of all replicas.
        queue_size: Most calls that wait, in each agent process.
        queue_timeout: Longest time that a call waits; None means as long as its deadline lets it.
        priority: Class of the calls that name none: `HIGH`, `NORMAL` or `LOW`.
        idempotent: True when running it again with the same input does no harm.
        retries: How often a call whose process died is started again.
        cacheable: True when a result may be given again for the same input.
        streams: True when the result comes item by item; the output schema is that of their list.
        tags: Words to find it by.
        model: `models/{model}` that it serves, or empty.
    """

    name: str
    description: str
    version: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    default_timeout: timedelta | None
    max_timeout: timedelta | None
    concurrency: int
    queue_size: int
    idempotent: bool
    model: str
    queue_timeout: timedelta | None = None
    priority: str = "NORMAL"
    retries: int = 0
    cacheable: bool = False
    streams: bool = False
    tags: tuple[str, ...] = ()
    concurrency_scope: str = "REPLICA"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave.

    Attributes:
        parts: The outputs.
        execution_time: Time from the start of the tool to its end.
        queue_time: Time that the call waited for a slot.
        warnings: What to know about the result.
        model_version: `models/{model}/versions/{version}` that answered, or empty.
        cached: True when the result was made for an earlier or a simultaneous call with the same input.
    """

    parts: tuple[Part, ...]
    tool: str
    tool_version: str
    execution_time: timedelta | None
    queue_time: timedelta | None
    warnings: tuple[str, ...]
    model_version: str
    cached: bool = False

    @property
    def value(self) -> Any:
        """The content of the only part; of several parts, a dict from name (or position) to content."""
        return part_forms.value_of(self.parts)


ToolEvent = ToolStarted | ToolProgress | ToolLog | ToolItem | ToolResult
"""What `tools.stream` gives; a `ToolResult` is the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One call of a batch; the fields are the arguments of `tools.run`."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    files: Mapping[str, Path | str | bytes] = field(default_factory=dict)
    timeout: float | None = None
    priority: str = ""


def _list(*, page_size: int = 0) -> Listing[Tool]:
    """Iterate over the tools that the caller may use, ordered by name."""

    def fetch(token: str) -> Operation[Page[Tool]]:
        return Operation(LIST_TOOLS, pb.ListToolsRequest(page_size=page_size, page_token=token), _read_tools)

    return Listing(fetch)


def _get(name: str, *, timeout: float | None = None) -> Operation[Tool]:
    """Return one tool with its schemas and limits; `image_ocr` and `tools/image_ocr` mean the same.

    Raises:
        NotFound: Reason `UNKNOWN_TOOL`.
    """
    request = pb.GetToolRequest(name=resource("tools", name))
    return Operation(GET_TOOL, request, lambda answer: _read_tool(answer.tool), timeout)


def run_operation(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    parts: Sequence[Part] = (),
    files: Mapping[str, Path | str | bytes] | None = None,
    timeout: float | None = None,
    priority: str = "",
) -> Operation[ToolResult]:
    """Run one tool. When the connection breaks, it is run again only if the tool is idempotent.

    Args:
        name: `image_ocr` or `tools/image_ocr`.
        arguments: JSON values by parameter; bytes are allowed at the top and travel raw.
        parts: Content that is sent as it is.
        files: Path by parameter; the files are read and sent raw. Bytes are taken for the content itself.
        timeout: Longest time the tool may take, in seconds, above 0 and up to 600. None means its default.
        priority: `high`, `normal` or `low` where the call has to wait; if empty, the tool's own. One above
            that counts for admins only.

    Raises:
        UsageError: A value is no JSON value, or a file cannot be read.
        NotFound: Reason `UNKNOWN_TOOL`.
        PermissionDenied: Reason `TOOL_NOT_ALLOWED`: the tool is for other roles.
        InvalidArgument: Reason `INVALID_TOOL_INPUT`; `violations` has path and rule.
        DeadlineExceeded: Reason `TOOL_TIMEOUT`: the work has stopped, or was not started.
        ResourceExhausted: Reason `TOOL_QUEUE_FULL`, `TOOL_OVERLOADED`, `TOOL_QUEUE_TIMEOUT`; `retry_after`
            says when to try again.
        Aborted: Reason `TOOL_CRASHED`.
        FailedPrecondition: Reason `TOOL_FAILED`: the tool itself reported an error; or, with `limit` and
            `measured` in the metadata, the limit that it went beyond: `TOOL_MEMORY_EXCEEDED`,
            `TOOL_CPU_EXCEEDED`, `TOOL_FILES_EXCEEDED`, `TOOL_FILE_TOO_LARGE`, `TOOL_LEFT_PROCESSES`; or
            `TOOL_OUTPUT_TOO_LARGE`, with `size_bytes` and `max_bytes`.
    """
    action = _action(name, arguments, parts, files, timeout, priority)
    limit = DISPATCH.default_timeout_s if timeout is None else timeout
    request = _request(action)
    harmless = Operation(GET_TOOL, pb.GetToolRequest(name=request.tool), _is_idempotent)
    return Operation(DISPATCH, request, _read_result, limit + GRACE_S, harmless)


def stream_feed(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    parts: Sequence[Part] = (),
    files: Mapping[str, Path | str | bytes] | None = None,
    timeout: float | None = None,
    priority: str = "",
) -> Feed[ToolEvent]:
    """Run one tool and iterate over what it tells: start, progress, log lines, items, and its result last.

    A slow loop slows the tool down; leaving it stops the work. Not retried: a tool may have effects.

    Args and errors as of `run`. Errors are raised by the loop, in place of the result; `Unavailable` means
    that the stream broke, and the work was stopped.
    """
    action = _action(name, arguments, parts, files, timeout, priority)
    plain = _request(action)
    request = pb.DispatchStreamRequest(
        tool=plain.tool, payload=plain.payload, timeout=duration(timeout), priority=plain.priority
    )
    limit = DISPATCH_STREAM.default_timeout_s if timeout is None else timeout
    return Feed(DISPATCH_STREAM, request, _read_event, limit + GRACE_S)


def _batch(
    actions: Sequence[Action], *, concurrency: int = 0, timeout: float | None = None
) -> Operation[tuple[ToolResult | AegisApiError, ...]]:
    """Run several actions at once; return a result or an error for each, in their order.

    Args:
        actions: 1 to 100 actions.
        concurrency: Most that run at once, 1 to 32; 0 means 8.
        timeout: Deadline of the whole batch, in seconds; None means 30 s.

    Raises:
        InvalidArgument: The request as a whole is wrong.
    """
    request = pb.BatchDispatchRequest(
        requests=[_request(action) for action in actions], concurrency=concurrency
    )
    return Operation(BATCH_DISPATCH, request, _read_outcomes, timeout)


def _action(
    name: str,
    arguments: Mapping[str, Any] | None,
    parts: Sequence[Part],
    files: Mapping[str, Path | str | bytes] | None,
    timeout: float | None,
    priority: str,
) -> Action:
    return Action(
        tool=name,
        arguments=arguments or {},
        parts=parts,
        files=files or {},
        timeout=timeout,
        priority=priority,
    )


def _request(action: Action) -> pb.DispatchRequest:
    return pb.DispatchRequest(
        tool=resource("tools", action.tool),
        payload=payload_of(action.arguments, action.parts, action.files),
        timeout=duration(time_limit(action.timeout)),
        priority=_priority(action.priority),
    )


def _priority(name: str) -> pb.Tool.Priority.ValueType:
    if not name:
        return pb.Tool.PRIORITY_UNSPECIFIED
    return pb.Tool.Priority.ValueType(enum_value(pb.Tool.Priority, name, "priority"))


def _read_tools(answer: pb.ListToolsResponse) -> Page[Tool]:
    return Page([_read_tool(tool) for tool in answer.tools], answer.next_page_token)


def _is_idempotent(answer: pb.GetToolResponse) -> bool:
    return answer.tool.idempotent


def _read_tool(tool: pb.Tool) -> Tool:
    return Tool(
        name=tool.name,
        description=tool.description,
        version=tool.version,
        input_schema=unstruct(tool.input_schema),
        output_schema=unstruct(tool.output_schema),
        default_timeout=span(tool, "default_timeout"),
        max_timeout=span(tool, "max_timeout"),
        concurrency=tool.concurrency,
        queue_size=tool.queue_size,
        idempotent=tool.idempotent,
        model=tool.model,
        queue_timeout=span(tool, "queue_timeout"),
        priority=enum_name(pb.Tool.Priority, tool.priority or pb.Tool.PRIORITY_NORMAL),
        retries=tool.retries,
        cacheable=tool.cacheable,
        streams=tool.streams,
        tags=tuple(tool.tags),
        concurrency_scope=enum_name(
            pb.Tool.ConcurrencyScope, tool.concurrency_scope or pb.Tool.CONCURRENCY_SCOPE_REPLICA
        ),
    )


def _read_result(answer: pb.DispatchResponse) -> ToolResult:
    return ToolResult(
        parts=tuple(part_forms.from_proto(part) for part in answer.result),
        tool=answer.tool,
        tool_version=answer.tool_version,
        execution_time=span(answer, "execution_time"),
        queue_time=span(answer, "queue_time"),
        warnings=tuple(answer.warnings),
        model_version=answer.model_version,
        cached=answer.cached,
    )


def _read_event(message: pb.DispatchStreamResponse) -> Step[ToolEvent]:
    match message.WhichOneof("event"):
        case "started":
            begun = message.started
            waited = span(begun, "queue_time")
            return Step(ToolStarted(tool=begun.tool, tool_version=begun.tool_version, queue_time=waited))
        case "progress":
            done = message.progress
            total = done.total if done.HasField("total") else None
            return Step(ToolProgress(done=done.done, total=total, message=done.message))
        case "log":
            level = enum_name(pb.CallLogLine.Level, message.log.level)
            return Step(ToolLog(level=level, message=message.log.message))
        case "item":
            parts = tuple(part_forms.from_proto(part) for part in message.item.parts)
            return Step(ToolItem(index=message.item.index, parts=parts))
        case "result":
            return Step(_read_result(message.result), last=True)
        case "error":
            raise status_error(message.error, last_trace_id())
    return Step()  # of a newer service


def _read_outcomes(answer: pb.BatchDispatchResponse) -> tuple[ToolResult | AegisApiError, ...]:
    trace_id = last_trace_id()
    return tuple(
        status_error(outcome.error, trace_id) if outcome.HasField("error") else _read_result(outcome.response)
        for outcome in answer.outcomes
    )


class ToolsSurface(ToolFilesSurface):
    list = stream(_list)
    get = unary(_get)
    run = unary(run_operation, reads_files=True)
    batch = unary(_batch, reads_files=True)
    stream = stream(stream_feed, reads_files=True)


class Tools(ToolsSurface, SyncApi):
    """`Client.tools`."""

    def as_functions(self, *names: str, timeout: float | None = None) -> tuple[Callable[..., Any], ...]:
        """Return tools as functions with name, documentation and signature, for any LLM application.

        Args:
            names: Which; if none is given, all that the caller may use.
            timeout: Longest time of each call, in seconds; None means the tool's default.

        Raises:
            NotFound: Reason `UNKNOWN_TOOL`.
            UsageError: Two tools would have one name; letters, digits and `_` count only.
        """
        tools = [self.get(name) for name in names] or self.list()

        def run(name: str, arguments: dict[str, Any]) -> ToolResult:
            return self.run(name, arguments, timeout=timeout)

        return tuple(
            make_function(name, tool, run, waits=False) for name, tool in by_flat_name(tools).items()
        )


class AsyncTools(ToolsSurface, AsyncApi):
    """`AsyncClient.tools`."""

    async def as_functions(  # the same surface as `Client`
        self,
        *names: str,
        timeout: float | None = None,  # noqa: ASYNC109  # it bounds each call of a function
    ) -> tuple[Callable[..., Any], ...]:
        """Return tools as coroutine functions; see `Client.tools.as_functions`."""
        tools = [await self.get(name) for name in names] or [tool async for tool in self.list()]

        async def run(name: str, arguments: dict[str, Any]) -> ToolResult:
            return await self.run(name, arguments, timeout=timeout)

        return tuple(make_function(name, tool, run, waits=True) for name, tool in by_flat_name(tools).items())
