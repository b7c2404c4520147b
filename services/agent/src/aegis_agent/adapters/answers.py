"""What the agent tells of tools and calls, in protobuf."""

from __future__ import annotations

from typing import Final

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis_agent.adapters import parts
from aegis_agent.adapters.artifacts.results import result_parts
from aegis_agent.domain.call import Artifacts, Chunk, LogLine, Priority, Progress
from aegis_agent.domain.execution import Begun
from aegis_agent.domain.result import Result
from aegis_agent.domain.schema import member
from aegis_agent.domain.tool import JsonSchema, Tool
from aegis_common.errors import AegisError
from aegis_common.rpc.errors import to_status

PRIORITIES: Final = {
    Priority.HIGH: pb.Tool.PRIORITY_HIGH,
    Priority.NORMAL: pb.Tool.PRIORITY_NORMAL,
    Priority.LOW: pb.Tool.PRIORITY_LOW,
}
_LEVELS: Final = {
    "DEBUG": pb.CallLogLine.LEVEL_DEBUG,
    "INFO": pb.CallLogLine.LEVEL_INFO,
    "WARNING": pb.CallLogLine.LEVEL_WARNING,
    "ERROR": pb.CallLogLine.LEVEL_ERROR,
}


def tool_message(tool: Tool) -> pb.Tool:
    """Return a tool as callers see it."""
    spec = tool.spec
    message = pb.Tool(
        name=f"tools/{spec.name}",
        description=spec.description,
        version=spec.version,
        input_schema=parts.schema_struct(spec.input_schema),
        output_schema=parts.schema_struct(spec.output_schema),
        concurrency=spec.concurrency,
        concurrency_scope=pb.Tool.CONCURRENCY_SCOPE_WORKER
        if tool.at_workers
        else pb.Tool.CONCURRENCY_SCOPE_REPLICA,
        queue_size=spec.queue_size,
        idempotent=spec.idempotent,
        model=f"models/{spec.model}" if spec.model else "",
        priority=PRIORITIES[spec.priority],
        retries=spec.retries,
        cacheable=spec.cacheable,
        streams=spec.streams,
        tags=spec.tags,
    )
    message.default_timeout.FromTimedelta(spec.default_timeout)
    message.max_timeout.FromTimedelta(spec.max_timeout)
    if spec.queue_timeout is not None:
        message.queue_timeout.FromTimedelta(spec.queue_timeout)
    return message


async def response_message(result: Result, artifacts: Artifacts | None, *, room: int) -> pb.DispatchResponse:
    """Return the answer to a call; what has no *room* in it, in bytes, becomes an artifact."""
    tool = result.tool
    passed_on = tool.spec.streams and result.value is None
    schema = tool.spec.output_schema
    response = pb.DispatchResponse(
        result=[] if passed_on else await result_parts(result.value, artifacts, room=room, schema=schema),
        tool=f"tools/{tool.spec.name}",
        tool_version=tool.spec.version,
        warnings=tool.warnings,
        model_version=f"models/{tool.spec.model}/versions/{tool.model_version}" if tool.spec.model else "",
        cached=result.cached,
    )
    response.execution_time.FromTimedelta(result.execution_time)
    response.queue_time.FromTimedelta(result.queue_time)
    return response


def event_message(event: Begun | Progress | LogLine) -> pb.DispatchStreamResponse:
    """Return what a call tells besides its items and its end."""
    if isinstance(event, Begun):
        started = pb.CallStarted(tool=f"tools/{event.tool.spec.name}", tool_version=event.tool.spec.version)
        started.queue_time.FromTimedelta(event.queue_time)
        return pb.DispatchStreamResponse(started=started)
    if isinstance(event, Progress):
        progress = pb.CallProgress(done=event.done, total=event.total, message=event.message)
        return pb.DispatchStreamResponse(progress=progress)
    line = pb.CallLogLine(level=_LEVELS.get(event.level, pb.CallLogLine.LEVEL_INFO), message=event.message)
    return pb.DispatchStreamResponse(log=line)


async def item_message(
    chunk: Chunk, artifacts: Artifacts | None, *, index: int, room: int, schema: JsonSchema
) -> pb.DispatchStreamResponse:
    """Return one item of a tool with that output schema; what has no *room*, in bytes, becomes an artifact.

    Raises:
        AegisError: See `result_parts`.
    """
    made = await result_parts(
        chunk.value, artifacts, room=room, schema=member(schema, schema, [], 0), root=schema
    )
    return pb.DispatchStreamResponse(item=pb.CallItem(index=index, parts=made))


def error_message(error: AegisError) -> pb.DispatchStreamResponse:
    """Return the last event of a call that failed."""
    return pb.DispatchStreamResponse(error=to_status(error))
