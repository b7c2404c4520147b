"""In a worker: what a running call tells its agent, and asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import values
from aegis_agent.adapters.remote.errors import told_by_agent
from aegis_agent.domain.artifacts import Artifact, ArtifactTooLarge
from aegis_agent.domain.call import Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.errors import InvalidToolOutput, ToolOutputTooLarge, Violation

ROOM_BYTES: Final = 64 << 10
"""Room in a message for what stands beside a value."""

Send = Callable[[pb.ConnectRequest], None]


class Asks:
    """One call's way to its agent; its `sink`, and its `Artifacts`.

    Args:
        call: Name of the call.
        tool: Name of the tool.
        send: Puts a message into the stream.
        window: Most asks that may wait for answers.
        max_message_bytes: Largest message that the agent takes.
        max_load_bytes: Most bytes that the call gets out of artifacts at once.
    """

    def __init__(
        self, call: str, tool: str, send: Send, *, window: int, max_message_bytes: int, max_load_bytes: int
    ) -> None:
        self._call = call
        self._tool = tool
        self._send = send
        self._max_bytes = max_message_bytes - ROOM_BYTES
        self._window = asyncio.Semaphore(max(1, window))
        self._waiting: dict[int, asyncio.Future[pb.WorkerAnswer]] = {}
        self._number = 0
        self.max_load_bytes: Final = max_load_bytes

    async def sink(self, event: Event) -> None:
        """Pass on what the tool tells; return when the agent has taken what has to be taken."""
        if isinstance(event, Progress):
            progress = pb.WorkerProgress(
                call=self._call, done=event.done, total=event.total, message=event.message
            )
            self._send(pb.ConnectRequest(progress=progress))
        elif isinstance(event, LogLine):
            line = pb.WorkerLog(call=self._call, level=event.level, message=event.message)
            self._send(pb.ConnectRequest(log=line))
        elif isinstance(event, Checkpoint):
            await self._ask(pb.WorkerAsk(checkpoint=event.data))
        elif isinstance(event, Chunk):
            await self._ask(pb.WorkerAsk(chunk=self.value(event.value)))

    def value(self, value: Any) -> pb.WorkerValue:
        """Return a result, or an item of one, as a message.

        Raises:
            InvalidToolOutput: It has no JSON form.
            ToolOutputTooLarge: The agent would not take it.
        """
        try:
            message = values.to_message(value)
        except values.ValueFault as error:
            raise InvalidToolOutput.of(self._tool, Violation("", "json", str(error))) from error
        if message.ByteSize() > self._max_bytes:
            raise ToolOutputTooLarge.of(self._tool, size_bytes=message.ByteSize(), max_bytes=self._max_bytes)
        return message

    def answered(self, answer: pb.WorkerAnswer) -> None:
        """Take an answer of the agent."""
        turn = self._waiting.pop(answer.number, None)
        if turn is not None and not turn.done():
            turn.set_result(answer)

    async def describe(self, name: str) -> Artifact:
        found = (await self._ask(pb.WorkerAsk(describe=name))).artifact
        return Artifact(
            sha256=found.sha256,
            size_bytes=found.size_bytes,
            media_type=found.media_type,
            filename=found.filename,
            created_at=datetime.fromtimestamp(found.created_at_s, UTC),
            expires_at=datetime.fromtimestamp(found.expires_at_s, UTC),
        )

    async def read(self, name: str) -> bytes:
        return (await self._ask(pb.WorkerAsk(read=name))).content

    async def save(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        if len(data) > self._max_bytes:
            raise ArtifactTooLarge(
                f"{len(data)} bytes; a worker saves at most {self._max_bytes} at once",
                size_bytes=str(len(data)),
                max_bytes=str(self._max_bytes),
            )
        blob = pb.WorkerBlob(data=data, media_type=media_type, filename=filename)
        return (await self._ask(pb.WorkerAsk(save=blob))).saved

    async def _ask(self, ask: pb.WorkerAsk) -> pb.WorkerAnswer:
        async with self._window:
            self._number += 1
            ask.call, ask.number = self._call, self._number
            turn: asyncio.Future[pb.WorkerAnswer] = asyncio.get_running_loop().create_future()
            self._waiting[ask.number] = turn
            self._send(pb.ConnectRequest(ask=ask))
            answer = await turn
        if answer.HasField("error"):
            raise told_by_agent(answer.error)
        return answer
