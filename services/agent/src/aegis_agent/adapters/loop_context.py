"""The context of a tool that runs in the agent's event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from aegis_agent.context import ArtifactError
from aegis_agent.domain.call import Artifacts, Call, Checkpoint, Event, LogLine, Progress
from aegis_common.errors import AegisError

MAX_CHECKPOINT_BYTES: Final = 1 << 20
MAX_LINE_CHARACTERS: Final = 4096
_MAX_LINES: Final = 1000
_PARENT: Final = logging.getLogger("aegis_agent.tool")


class LoopContext:
    """What an async tool may ask for; an `AsyncContext`.

    Args:
        tool: Name of the tool.
        call: The call that it serves.

    Attributes:
        cancelled: The call was cancelled, or its deadline is near.
        alone: The caller has gone; only checkpoints are still of use.
    """

    def __init__(self, tool: str, call: Call) -> None:
        self._tool = tool
        self._call = call
        self._waiting: deque[LogLine] = deque(maxlen=_MAX_LINES)
        self._order = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._over = False
        self._pump: asyncio.Task[None] | None = None
        self._log: logging.Logger | None = None
        self.cancelled = False
        self.alone = False

    @property
    def tenant(self) -> str:
        return self._call.caller.tenant

    @property
    def attempt(self) -> int:
        return self._call.attempt

    @property
    def job(self) -> str:
        return self._call.job

    @property
    def checkpointed(self) -> bytes | None:
        return self._call.checkpoint

    @property
    def log(self) -> logging.Logger:
        if self._log is None:
            self._log = logging.Logger(f"{_PARENT.name}.{self._tool}", logging.INFO)  # noqa: LOG001  # this call's own
            self._log.parent = _PARENT
            self._log.addHandler(_Lines(self._post))
        return self._log

    def time_left(self) -> float:
        return max(0.0, self._call.deadline - asyncio.get_running_loop().time())

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        await self.tell(Progress(done=done, total=total, message=message[:MAX_LINE_CHARACTERS]))

    async def checkpoint(self, data: bytes) -> None:
        if len(data) > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"a checkpoint of {len(data)} bytes; at most {MAX_CHECKPOINT_BYTES}")
        await self.tell(Checkpoint(bytes(data)))

    async def read_artifact(self, name: str) -> bytes:
        try:
            return await self._artifacts().read(name)
        except AegisError as error:
            raise ArtifactError(error.message) from error

    async def save_artifact(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        try:
            return await self._artifacts().save(data, media_type=media_type, filename=filename)
        except AegisError as error:
            raise ArtifactError(error.message) from error

    def cancel(self) -> None:
        """Let the tool see that it has to end."""
        self.cancelled = True

    async def tell(self, event: Event | None) -> None:
        """Pass on the lines that were logged before, and then *event*, in this order."""
        if self.alone and not isinstance(event, Checkpoint):
            return
        async with self._order:
            while self._waiting:
                await self._call.sink(self._waiting.popleft())
            if event is not None:
                await self._call.sink(event)

    async def close(self) -> None:
        """Pass on what was logged last."""
        await self.tell(None)
        if self._pump is not None:
            await self._pump

    def abandon(self) -> None:
        """Stop passing lines on; the call is over, whatever it has left running."""
        self._over = True
        if self._pump is not None:
            self._pump.cancel()

    def _post(self, line: LogLine) -> None:
        """Take a line, also from a thread of the tool."""
        if threading.get_ident() == self._thread:
            self._line(line)
        else:
            self._loop.call_soon_threadsafe(self._line, line)

    def _line(self, line: LogLine) -> None:
        """Keep a line (of too many, the oldest go), and pass it on as soon as the tool waits."""
        if self._over:
            return
        self._waiting.append(line)
        if self._pump is None or self._pump.done():
            self._pump = self._loop.create_task(self.tell(None))

    def _artifacts(self) -> Artifacts:
        if self._call.artifacts is None:
            raise ArtifactError("this agent has no artifact store")
        return self._call.artifacts


class _Lines(logging.Handler):
    """Makes events of log records."""

    def __init__(self, take: Callable[[LogLine], None]) -> None:
        super().__init__(logging.INFO)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.INFO), logging.ERROR)
        try:
            text = record.getMessage()[:MAX_LINE_CHARACTERS]
            self._take(LogLine(level=logging.getLevelName(level), message=text))
        except Exception:  # a line that cannot be written is no fault of the work
            self.handleError(record)
