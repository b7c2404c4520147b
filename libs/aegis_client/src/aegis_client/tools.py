"""The tools of an agent: what they take, and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis_client import parts as part_forms
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.status import status_error
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import duration, resource, span, time_limit, unstruct
from aegis_client.errors import AegisApiError
from aegis_client.parts import Part
from aegis_client.trace import last_trace_id

LIST_TOOLS: Final = method(pb, "AgentService", "ListTools", pb.ListToolsResponse)
GET_TOOL: Final = method(pb, "AgentService", "GetTool", pb.GetToolResponse)
DISPATCH: Final = method(pb, "AgentService", "Dispatch", pb.DispatchResponse)
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
        concurrency: Most calls that run at once in one agent process.
        queue_size: Most calls that wait there.
        idempotent: True when running it again with the same input does no harm.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave.

    Attributes:
        parts: The outputs.
        execution_time: Time from the start of the tool to its end.
        queue_time: Time that the call waited for a slot.
        warnings: What to know about the result.
        model_version: `models/{model}/versions/{version}` that answered, or empty.
    """

    parts: tuple[Part, ...]
    tool: str
    tool_version: str
    execution_time: timedelta | None
    queue_time: timedelta | None
    warnings: tuple[str, ...]
    model_version: str

    @property
    def value(self) -> Any:
        """The content of the only part; of several parts, a dict from name (or position) to content."""
        if len(self.parts) == 1:
            return self.parts[0].content
        return {part.name or str(index): part.content for index, part in enumerate(self.parts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One call of a batch; the fields are the arguments of `tools.run`."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    files: Mapping[str, Path | str | bytes] = field(default_factory=dict)
    timeout: float | None = None


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
) -> Operation[ToolResult]:
    """Run one tool. Not retried: a tool may have effects.

    Args:
        name: `image_ocr` or `tools/image_ocr`.
        arguments: JSON values by parameter; bytes are allowed at the top and travel raw.
        parts: Content that is sent as it is.
        files: Path by parameter; the files are read and sent raw. Bytes are taken for the content itself.
        timeout: Longest time the tool may take, in seconds, above 0 and up to 600. None means its default.

    Raises:
        UsageError: A value is no JSON value, or a file cannot be read.
        NotFound: Reason `UNKNOWN_TOOL`.
        InvalidArgument: Reason `INVALID_TOOL_INPUT`; `violations` has path and rule.
        DeadlineExceeded: Reason `TOOL_TIMEOUT`: the work has stopped.
        ResourceExhausted: Reason `TOOL_QUEUE_FULL` or `TOOL_OUTPUT_TOO_LARGE`.
        Aborted: Reason `TOOL_CRASHED`.
        FailedPrecondition: Reason `TOOL_FAILED`: the tool itself reported an error.
    """
    action = Action(tool=name, arguments=arguments or {}, parts=parts, files=files or {}, timeout=timeout)
    request = _request(action)
    limit = DISPATCH.default_timeout_s if timeout is None else timeout
    return Operation(DISPATCH, request, _read_result, limit + GRACE_S)


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


def _file(name: str, given: Path | str | bytes) -> Part:
    return Part(data=given, name=name) if isinstance(given, bytes) else Part.from_file(given, name=name)


def _request(action: Action) -> pb.DispatchRequest:
    raw = {
        key: bytes(value) for key, value in action.arguments.items() if isinstance(value, bytes | bytearray)
    }
    plain = {key: value for key, value in action.arguments.items() if key not in raw}
    made = [Part(json=plain)] if plain else []
    made += [Part(data=value, name=key) for key, value in raw.items()]
    made += [_file(key, given) for key, given in action.files.items()]
    return pb.DispatchRequest(
        tool=resource("tools", action.tool),
        payload=[part_forms.to_proto(part) for part in [*made, *action.parts]],
        timeout=duration(time_limit(action.timeout)),
    )


def _read_tools(answer: pb.ListToolsResponse) -> Page[Tool]:
    return Page([_read_tool(tool) for tool in answer.tools], answer.next_page_token)


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
    )


def _read_outcomes(answer: pb.BatchDispatchResponse) -> tuple[ToolResult | AegisApiError, ...]:
    trace_id = last_trace_id()
    return tuple(
        status_error(outcome.error, trace_id) if outcome.HasField("error") else _read_result(outcome.response)
        for outcome in answer.outcomes
    )


class ToolsSurface:
    list = stream(_list)
    get = unary(_get)
    run = unary(run_operation, reads_files=True)
    batch = unary(_batch, reads_files=True)


class Tools(ToolsSurface, SyncApi):
    """`Client.tools`."""


class AsyncTools(ToolsSurface, AsyncApi):
    """`AsyncClient.tools`."""
