"""What a child says in the middle of a call: passed on to the call's sink, or answered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from aegis_agent.adapters.children import frames
from aegis_agent.adapters.children.child_context import CHECKPOINT_BYTES
from aegis_agent.adapters.children.link import ChildEnded, ReplyTooLarge
from aegis_agent.domain.call import Call, Checkpoint, Chunk, Event, LogLine, Progress
from aegis_common.errors import AegisError

ARTIFACT_BYTES: Final = 64 << 20
"""Largest artifact that a child may save; the agent holds it in memory meanwhile."""
_SLACK: Final = 4096
_TEXT_LENGTH: Final = 4096
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True)
class _Read:
    name: str


@dataclass(frozen=True, slots=True)
class _Save:
    data: bytes
    media_type: str
    filename: str


class Conversation:
    """What one call's child may say, and what it is answered. The child is not trusted.

    Args:
        call: The call.
        output_bytes: Most bytes of one item.
    """

    def __init__(self, call: Call, *, output_bytes: int) -> None:
        self._call = call
        self._output_bytes = output_bytes
        self._saves = ARTIFACT_BYTES if call.artifacts is not None else 0
        self.over = False

    @property
    def most(self) -> int:
        """Most bytes of a frame."""
        return max(self._output_bytes, CHECKPOINT_BYTES, self._saves) + _SLACK

    async def take(self, message: dict[str, Any], size: int) -> bytes | None:
        """Take what the child says; return the frame to answer with, if it waits for one.

        Raises:
            ChildEnded: It says what makes no sense.
            ReplyTooLarge: It says too much at once.
        """
        if size > self._output_bytes + _SLACK and "save" not in message and "checkpoint" not in message:
            raise ReplyTooLarge(size)
        try:
            wanted = _parsed(message)
        except (TypeError, KeyError, ValueError) as error:
            raise ChildEnded("sent nonsense") from error
        if isinstance(wanted, _Read | _Save):
            return frames.encode(await self._artifact(wanted))
        # in its time of grace a tool may still save its state, but nobody reads along
        if not self.over or isinstance(wanted, Checkpoint):
            await self._call.sink(wanted)
        return frames.encode({"value": None}) if isinstance(wanted, Chunk | Checkpoint) else None

    async def _artifact(self, wanted: _Read | _Save) -> dict[str, Any]:
        artifacts = self._call.artifacts
        if artifacts is None:
            return {"error": "this agent has no artifact store"}
        try:
            if isinstance(wanted, _Read):
                return {"value": await artifacts.read(wanted.name)}
            name = await artifacts.save(wanted.data, media_type=wanted.media_type, filename=wanted.filename)
        except AegisError as error:
            return {"error": error.message}
        return {"value": name}


def _parsed(message: dict[str, Any]) -> Event | _Read | _Save:
    """Return what a child says.

    Raises:
        TypeError, KeyError, ValueError: It makes no sense.
    """
    match message:
        case {"progress": told}:
            return _progress(told)
        case {"log": {"level": level, "message": text}} if level in _LEVELS:
            return LogLine(level=level, message=str(text)[:_TEXT_LENGTH])
        case {"chunk": value}:
            return Chunk(value)
        case {"checkpoint": bytes() as data} if len(data) <= CHECKPOINT_BYTES:
            return Checkpoint(data)
        case {"read": str() as name}:
            return _Read(name)
        case {"save": {"data": bytes() as data, "media_type": str() as kind, "filename": str() as filename}}:
            return _Save(data, kind, filename)
    raise ValueError(message)


def _progress(told: Any) -> Progress:
    total = told["total"]
    if not math.isfinite(told["done"]) or (total is not None and not math.isfinite(total)):
        raise ValueError(told)
    return Progress(
        done=float(told["done"]),
        total=None if total is None else float(total),
        message=str(told["message"])[:_TEXT_LENGTH],
    )
