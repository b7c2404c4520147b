"""One call at a worker, as the agent sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import values
from aegis_agent.adapters.remote.errors import WorkerLost, WorkerProtocol, told_by_worker
from aegis_agent.domain.artifacts import NoArtifactStore
from aegis_agent.domain.call import Artifacts, Call, Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.errors import InvalidToolOutput, Violation
from aegis_common.errors import AegisError
from aegis_common.rpc.errors import to_status

WINDOW: Final = 4
"""Most asks of one call that may wait for their answers."""
_MAX_NEWS: Final = 256
MAX_CHECKPOINT_BYTES: Final = 1 << 20

End = pb.WorkerResult | pb.WorkerFailure | WorkerLost


class RemoteCall:
    """What a worker tells of a call waits here until the call's reader has time for it.

    Args:
        name: Names the call in its session.
        tool: Name of the tool.
        call: The call.

    Attributes:
        sent: The worker may have begun with it.
        given: Items that the caller has got.
        ended: Set when nothing more comes.
    """

    def __init__(self, name: str, tool: str, call: Call) -> None:
        self.name: Final = name
        self.tool: Final = tool
        self._call = call
        self._inbox: deque[Event | pb.WorkerAsk | End] = deque()
        self._wake = asyncio.Event()
        self._asks = 0
        self._last = 0
        self.sent = False
        self.given = 0
        self.ended: Final = asyncio.Event()

    def tell(self, event: Progress | LogLine) -> None:
        """Take news; of too many that wait, the newest are left out."""
        if len(self._inbox) < _MAX_NEWS:
            self._put(event)

    def ask(self, ask: pb.WorkerAsk) -> None:
        """Take something that the worker waits for.

        Raises:
            WorkerProtocol: There are too many, or they are out of order.
        """
        if self._asks >= WINDOW or ask.number != self._last + 1 or ask.WhichOneof("ask") is None:
            raise WorkerProtocol(
                f"ask {ask.number} of call {self.name}: at most {WINDOW} wait for answers, each has the next "
                "number, and each asks something",
                call=self.name,
            )
        self._asks += 1
        self._last = ask.number
        self._put(ask)

    def end(self, how: End) -> None:
        """Take the last message."""
        self.ended.set()
        self._put(how)

    async def outcome(self, answer: Callable[[pb.WorkerAnswer], None]) -> Any:
        """Pass on what the worker tells until the end; return the result.

        Raises:
            WorkerLost: The worker has gone.
            AegisError: What the worker reports.
        """
        while True:
            while not self._inbox:
                self._wake.clear()
                await self._wake.wait()
            item = self._inbox.popleft()
            if isinstance(item, pb.WorkerAsk):
                answer(await self._answered(item))
            elif isinstance(item, WorkerLost):
                raise item
            elif isinstance(item, pb.WorkerFailure):
                raise told_by_worker(self.tool, item.error)
            elif isinstance(item, pb.WorkerResult):
                return await self._value(item.value) if item.HasField("value") else None
            else:
                await self._call.sink(item)

    def _put(self, item: Event | pb.WorkerAsk | End) -> None:
        self._inbox.append(item)
        self._wake.set()

    async def _answered(self, ask: pb.WorkerAsk) -> pb.WorkerAnswer:
        answer = pb.WorkerAnswer(call=self.name, number=ask.number)
        kind = ask.WhichOneof("ask")
        if kind == "chunk":
            value = await self._value(ask.chunk)
            await self._call.sink(Chunk(value))
            self.given += 1
        else:
            try:
                await self._artifact_or_checkpoint(kind or "", ask, answer)
            except AegisError as error:
                answer.error.CopyFrom(to_status(error))
        self._asks -= 1
        return answer

    async def _artifact_or_checkpoint(self, kind: str, ask: pb.WorkerAsk, answer: pb.WorkerAnswer) -> None:
        if kind == "checkpoint":
            if len(ask.checkpoint) > MAX_CHECKPOINT_BYTES:
                violation = Violation("checkpoint", "maxBytes", f"at most {MAX_CHECKPOINT_BYTES} bytes")
                raise InvalidToolOutput.of(self.tool, violation)
            await self._call.sink(Checkpoint(ask.checkpoint))
            return
        artifacts = self._artifacts()
        if kind == "describe":
            about = await artifacts.describe(ask.describe)
            answer.artifact.CopyFrom(
                pb.WorkerArtifact(
                    sha256=about.sha256,
                    size_bytes=about.size_bytes,
                    media_type=about.media_type,
                    filename=about.filename,
                    created_at_s=about.created_at.timestamp(),
                    expires_at_s=about.expires_at.timestamp(),
                )
            )
        elif kind == "read":
            answer.content = await artifacts.read(ask.read)
        else:
            item = ask.save
            answer.saved = await artifacts.save(
                item.data, media_type=item.media_type, filename=item.filename[:255]
            )

    def _artifacts(self) -> Artifacts:
        if self._call.artifacts is None:
            raise NoArtifactStore("this agent keeps no artifacts", tool=self.tool)
        return self._call.artifacts

    async def _value(self, message: pb.WorkerValue) -> Any:
        try:
            return await values.from_message(message)
        except values.ValueFault as error:
            raise InvalidToolOutput.of(self.tool, Violation("", "json", str(error))) from error
