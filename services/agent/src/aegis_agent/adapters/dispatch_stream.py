"""Serves DispatchStream: the events of one call, each written when the reader has room for it."""

from __future__ import annotations

import logging
from typing import Any, Final

import grpc.aio

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis_agent.adapters.answers import error_message, event_message, item_message, response_message
from aegis_agent.domain.call import Artifacts, Checkpoint, Chunk, LogLine, Progress
from aegis_agent.domain.errors import AgentInternal, ToolOutputTooLarge
from aegis_agent.domain.execution import Begun
from aegis_agent.domain.result import Result
from aegis_agent.domain.streaming import CallStream, Told
from aegis_agent.domain.tool import JsonSchema
from aegis_common.errors import AegisError
from aegis_common.rpc.call import current_call

Context = grpc.aio.ServicerContext[Any, Any]
_log: Final = logging.getLogger(__name__)


class StreamWriter:
    """Writes one call's events, the last one included.

    Args:
        context: Where they are written.
        tool: Name of the tool.
        artifacts: The caller's artifacts, or None.
        max_bytes: Largest event.
    """

    def __init__(self, context: Context, tool: str, artifacts: Artifacts | None, *, max_bytes: int) -> None:
        self._context = context
        self._tool = tool
        self._artifacts = artifacts
        self._max_bytes = max_bytes
        self._begun = False
        self._items = 0
        self._schema: JsonSchema = {}

    async def write(self, stream: CallStream) -> None:
        """Write what *stream* tells.

        Raises:
            AegisError: The call was refused before it told anything; later, an error is the last event.
        """
        try:
            async with stream:
                async for event in stream:
                    await self._tell(event)
        except AegisError as error:
            await self._fail(error)
        except Exception as error:
            if not self._begun:
                raise
            _log.exception("action failed unexpectedly", extra={"tool": self._tool})
            fault = AgentInternal("the agent failed; its log has the cause", tool=self._tool)
            fault.__cause__ = error
            await self._fail(fault)

    async def _tell(self, event: Told) -> None:
        if isinstance(event, Checkpoint):
            return  # of use to a job only
        if isinstance(event, Begun):
            self._schema = event.tool.spec.output_schema
        message = await self._message(event)
        size = message.ByteSize()
        if size > self._max_bytes:
            raise ToolOutputTooLarge.of(self._tool, size_bytes=size, max_bytes=self._max_bytes)
        self._items += isinstance(event, Chunk)
        self._begun = True
        await self._context.write(message)

    async def _message(self, event: Begun | Progress | LogLine | Chunk | Result) -> pb.DispatchStreamResponse:
        if isinstance(event, Result):
            response = await response_message(event, self._artifacts, room=self._max_bytes)
            return pb.DispatchStreamResponse(result=response)
        if isinstance(event, Chunk):
            return await item_message(
                event, self._artifacts, index=self._items, room=self._max_bytes, schema=self._schema
            )
        return event_message(event)

    async def _fail(self, error: AegisError) -> None:
        if not self._begun:
            raise error
        current_call().reason = error.reason  # for the audit log: the rpc itself ends well
        await self._context.write(error_message(error))
