"""aegis.agent.v1.AgentService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import grpc.aio

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis_agent.adapters import parts
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import DEFAULT_BATCH_CONCURRENCY, Action, Dispatcher, Result
from aegis_agent.domain.errors import ToolOutputTooLarge
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.parts import MAX_INLINE_BYTES
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import Tool
from aegis_common.errors import AegisError, InvalidArgument
from aegis_common.paging import page
from aegis_common.rpc.call import current_call
from aegis_common.rpc.errors import to_status

MAX_RESPONSE_BYTES: Final = (8 << 20) + (512 << 10)
"""Largest answer: what the gateway and clients take in one message."""

# The caller's own deadline must not pass before our answer, with its reason, is there.
_MARGIN_S: Final = 0.05
_MARGIN_SHARE: Final = 0.1
_LARGE_REQUEST_BYTES: Final = 128 << 10

Context = grpc.aio.ServicerContext[Any, Any]


class AgentServicer(pb_grpc.AgentServiceServicer):
    """Translate only: no decisions about tools."""

    def __init__(
        self, registry: Registry, dispatcher: Dispatcher, *, max_response_bytes: int = MAX_RESPONSE_BYTES
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._max_response_bytes = max_response_bytes

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        tenant = _tenant()
        found, token = page(
            self._registry.tools(tenant=tenant),
            key=lambda tool: tool.spec.name,
            size=request.page_size,
            token=request.page_token,
            query=f"ListTools/{tenant}",
        )
        return pb.ListToolsResponse(tools=[_tool(tool) for tool in found], next_page_token=token)

    async def GetTool(self, request: pb.GetToolRequest, context: Context) -> pb.GetToolResponse:
        found = self._registry.find(_id(request.name), tenant=_tenant())
        return pb.GetToolResponse(tool=_tool(found.tool))

    async def Dispatch(self, request: pb.DispatchRequest, context: Context) -> pb.DispatchResponse:
        action = await _action(request)
        result = await self._dispatcher.dispatch(action, caller=_caller(), time_left=_time_left())
        response = await _response(result)
        self._check_size(result.tool.spec.name, response.ByteSize())
        return response

    async def BatchDispatch(
        self, request: pb.BatchDispatchRequest, context: Context
    ) -> pb.BatchDispatchResponse:
        _check_inline_bytes(request)
        outcomes = await self._dispatcher.batch(
            [await _action(item) for item in request.requests],
            caller=_caller(),
            concurrency=request.concurrency or DEFAULT_BATCH_CONCURRENCY,
            time_left=_time_left(),
        )
        return pb.BatchDispatchResponse(outcomes=await self._outcomes(outcomes))

    async def _outcomes(self, outcomes: Sequence[Result | AegisError]) -> list[pb.ActionOutcome]:
        """Return an outcome for each; a result that the answer has no more room for becomes an error."""
        size = 0
        answers = []
        for outcome in outcomes:
            answer = await _outcome(outcome)
            try:
                if isinstance(outcome, Result):
                    self._check_size(outcome.tool.spec.name, size + answer.ByteSize())
            except ToolOutputTooLarge as error:
                answer = await _outcome(error)
            size += answer.ByteSize()
            answers.append(answer)
        return answers

    def _check_size(self, tool: str, size: int) -> None:
        if size > self._max_response_bytes:
            raise ToolOutputTooLarge.of(tool, size_bytes=size, max_bytes=self._max_response_bytes)


def _caller() -> Caller:
    principal = current_call().principal
    return Caller(tenant=principal.tenant, subject=principal.subject, roles=principal.roles)


def _tenant() -> str:
    return current_call().principal.tenant


def _time_left() -> timedelta:
    left = current_call().time_remaining()
    return timedelta(seconds=max(0.0, left - min(_MARGIN_S, left * _MARGIN_SHARE)))


def _id(name: str) -> str:
    return name.removeprefix("tools/")


def _check_inline_bytes(request: pb.BatchDispatchRequest) -> None:
    size = sum(len(part.inline_bytes) for item in request.requests for part in item.payload)
    if size > MAX_INLINE_BYTES:
        raise InvalidArgument(
            f"all inline_bytes of the batch are {size} bytes together; at most {MAX_INLINE_BYTES}",
            violations={"requests": f"at most {MAX_INLINE_BYTES} inline bytes"},
            size_bytes=str(size),
        )


async def _action(request: pb.DispatchRequest) -> Action:
    large = request.ByteSize() > _LARGE_REQUEST_BYTES
    read = parts.from_protos
    payload = await asyncio.to_thread(read, request.payload) if large else read(request.payload)
    timeout = request.timeout.ToTimedelta() if request.HasField("timeout") else None
    return Action(_id(request.tool), payload, timeout)


async def _outcome(outcome: Result | AegisError) -> pb.ActionOutcome:
    if isinstance(outcome, AegisError):
        return pb.ActionOutcome(error=to_status(outcome))
    return pb.ActionOutcome(response=await _response(outcome))


async def _response(result: Result) -> pb.DispatchResponse:
    tool = result.tool
    response = pb.DispatchResponse(
        result=await offloaded(parts.to_protos, result.value),
        tool=f"tools/{tool.spec.name}",
        tool_version=tool.spec.version,
        warnings=tool.warnings,
        model_version=f"models/{tool.spec.model}/versions/{tool.model_version}" if tool.spec.model else "",
    )
    response.execution_time.FromTimedelta(result.execution_time)
    response.queue_time.FromTimedelta(result.queue_time)
    return response


def _tool(tool: Tool) -> pb.Tool:
    spec = tool.spec
    message = pb.Tool(
        name=f"tools/{spec.name}",
        description=spec.description,
        version=spec.version,
        input_schema=parts.to_struct(spec.input_schema),
        output_schema=parts.to_struct(spec.output_schema),
        concurrency=spec.concurrency,
        queue_size=spec.queue_size,
        idempotent=spec.idempotent,
        model=f"models/{spec.model}" if spec.model else "",
    )
    message.default_timeout.FromTimedelta(spec.default_timeout)
    message.max_timeout.FromTimedelta(spec.max_timeout)
    return message
