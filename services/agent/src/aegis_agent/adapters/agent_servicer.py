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
from aegis_agent.adapters.answers import PRIORITIES, response_message, tool_message
from aegis_agent.adapters.dispatch_stream import StreamWriter
from aegis_agent.domain.call import Artifacts, Caller
from aegis_agent.domain.dispatch import DEFAULT_BATCH_CONCURRENCY, Action, Dispatcher
from aegis_agent.domain.errors import ToolOutputTooLarge
from aegis_agent.domain.parts import MAX_INLINE_BYTES
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.result import Result
from aegis_agent.domain.streaming import CallStream
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
_PRIORITIES: Final = {number: priority for priority, number in PRIORITIES.items()}

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
        found, token = page(
            self._registry.tools(caller=_caller()),
            key=lambda tool: tool.spec.name,
            size=request.page_size,
            token=request.page_token,
            query=f"ListTools/{_tenant()}",
        )
        return pb.ListToolsResponse(tools=[tool_message(tool) for tool in found], next_page_token=token)

    async def GetTool(self, request: pb.GetToolRequest, context: Context) -> pb.GetToolResponse:
        found = self._registry.find(_id(request.name), caller=_caller())
        return pb.GetToolResponse(tool=tool_message(found.tool))

    async def Dispatch(self, request: pb.DispatchRequest, context: Context) -> pb.DispatchResponse:
        action = await _action(request)
        _note([action])
        result = await self._dispatcher.dispatch(action, caller=_caller(), time_left=_time_left())
        response = await response_message(result, self._artifacts(), room=self._max_response_bytes)
        self._check_size(result.tool.spec.name, response.ByteSize())
        return response

    async def DispatchStream(  # type: ignore[override]  # writes by itself, so that a slow reader is waited for
        self, request: pb.DispatchStreamRequest, context: Context
    ) -> None:
        action = await _action(request)
        _note([action])
        stream = CallStream(self._dispatcher, action, caller=_caller(), time_left=_time_left())
        writer = StreamWriter(context, action.tool, self._artifacts(), max_bytes=self._max_response_bytes)
        await writer.write(stream)

    async def BatchDispatch(
        self, request: pb.BatchDispatchRequest, context: Context
    ) -> pb.BatchDispatchResponse:
        _check_inline_bytes(request)
        actions = [await _action(item) for item in request.requests]
        _note(actions)
        outcomes = await self._dispatcher.batch(
            actions,
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
            try:
                answer = await self._outcome(outcome, room=self._max_response_bytes - size)
            except AegisError as error:
                answer = pb.ActionOutcome(error=to_status(error))
            size += answer.ByteSize()
            answers.append(answer)
        return answers

    async def _outcome(self, outcome: Result | AegisError, *, room: int) -> pb.ActionOutcome:
        if isinstance(outcome, AegisError):
            raise outcome
        answer = pb.ActionOutcome(response=await response_message(outcome, self._artifacts(), room=room))
        if answer.ByteSize() > room:
            raise ToolOutputTooLarge.of(outcome.tool.spec.name, size_bytes=answer.ByteSize(), max_bytes=room)
        return answer

    def _artifacts(self) -> Artifacts | None:
        return self._dispatcher.artifacts(_caller()) if self._dispatcher.artifacts else None

    def _check_size(self, tool: str, size: int) -> None:
        if size > self._max_response_bytes:
            raise ToolOutputTooLarge.of(tool, size_bytes=size, max_bytes=self._max_response_bytes)


def _note(actions: Sequence[Action]) -> None:
    """Tell the audit log which tools are called."""
    current_call().notes["tool"] = ",".join(sorted({action.tool for action in actions}))


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


async def _action(request: pb.DispatchRequest | pb.DispatchStreamRequest) -> Action:
    large = request.ByteSize() > _LARGE_REQUEST_BYTES
    read = parts.from_protos
    payload = await asyncio.to_thread(read, request.payload) if large else read(request.payload)
    timeout = request.timeout.ToTimedelta() if request.HasField("timeout") else None
    return Action(_id(request.tool), payload, timeout, _PRIORITIES.get(request.priority))
