"""Inside a child: the context that a tool may ask for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from aegis_agent.adapters.children import frames
from aegis_agent.adapters.children.channel import Channel
from aegis_agent.context import ArtifactError

CHECKPOINT_BYTES: Final = 1 << 20
_TEXT_LENGTH: Final = 4096
_LEVELS: Final = ("DEBUG", "DEBUG", "INFO", "WARNING", "ERROR")


class ChildContext:
    """One call as its tool sees it; a `Context`.

    Attributes:
        output_bytes: Most bytes of one item that is sent.
        cancelled: Set when the call is cancelled.
    """

    def __init__(self, channel: Channel, request: dict[str, Any], *, output_bytes: int) -> None:
        self._channel = channel
        self._open = True
        self._deadline = time.monotonic() + float(request["time_left"])
        self._log: logging.Logger | None = None
        self._output_bytes = output_bytes
        self.tenant: Final[str] = request["tenant"]
        self.attempt: Final[int] = request["attempt"]
        self.job: Final[str] = request["job"]
        self.checkpointed: Final[bytes | None] = request["checkpoint"]
        self.cancelled = False

    @property
    def log(self) -> logging.Logger:
        if self._log is None:
            self._log = logging.Logger("aegis.tool", logging.INFO)  # noqa: LOG001  # one for each call
            self._log.addHandler(_Lines(self._tell))
        return self._log

    def time_left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        report = {
            "done": float(done),
            "total": None if total is None else float(total),
            "message": str(message)[:_TEXT_LENGTH],
        }
        self._tell({"progress": report})

    def checkpoint(self, data: bytes) -> None:
        if len(data) > CHECKPOINT_BYTES:
            raise ValueError(
                f"a checkpoint of {len(data)} bytes; at most {CHECKPOINT_BYTES}: save an artifact instead"
            )
        self._ask({"checkpoint": bytes(data)})

    def read_artifact(self, name: str) -> bytes:
        data: bytes = self._ask({"read": name})
        return data

    def save_artifact(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        wanted = {"data": bytes(data), "media_type": media_type, "filename": filename}
        name: str = self._ask({"save": wanted})
        return name

    def chunk(self, value: Any) -> None:
        """Give the caller one item, and wait until it is taken.

        Raises:
            ItemTooLarge: It is beyond the limit.
        """
        frame = frames.encode({"chunk": value})
        if len(frame) > self._output_bytes:
            raise ItemTooLarge(len(frame))
        self._check_open()
        self._channel.ask(frame)

    def close(self) -> None:
        """The call is over: whatever of it still runs must not speak in the next one."""
        self._open = False

    def _tell(self, message: dict[str, Any]) -> None:
        self._check_open()
        self._channel.send(frames.encode(message))

    def _ask(self, message: dict[str, Any]) -> Any:
        self._check_open()
        answer = self._channel.ask(frames.encode(message))
        if "error" in answer:
            raise ArtifactError(answer["error"])
        return answer["value"]

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("the call that this context belongs to is over")


class ItemTooLarge(Exception):
    """An item of a streaming tool is beyond the limit."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _Lines(logging.Handler):
    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        level = _LEVELS[min(record.levelno // 10, len(_LEVELS) - 1)]
        self._tell({"log": {"level": level, "message": text[:_TEXT_LENGTH]}})
