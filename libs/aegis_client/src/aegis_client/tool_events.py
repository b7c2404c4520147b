"""What a tool tells while it runs, as `tools.stream` gives it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aegis_client.parts import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted:
    """The call has its slot; the work starts now.

    Attributes:
        tool: `tools/{tool}`.
        queue_time: Time that the call waited for a slot.
    """

    tool: str
    tool_version: str
    queue_time: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgress:
    """How far the work has come.

    Attributes:
        done: Units that are done.
        total: Units in all, or None when nobody knows.
        message: What the tool does now.
    """

    done: float
    total: float | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLog:
    """A line that the tool wants its caller to see.

    Attributes:
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """

    level: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolItem:
    """One item of the result of a tool that streams.

    Attributes:
        index: Its place, from 0.
        parts: The item.
    """

    index: int
    parts: tuple[Part, ...]

    @property
    def value(self) -> Any:
        """The content of the item; a value that is no JSON object, no text and no bytes comes bare."""
        return bare(self.parts)


def bare(parts: tuple[Part, ...]) -> Any:
    """Return what the tool itself gave, without the object `{"result": v}` around other values."""
    if len(parts) != 1:
        return {part.name or str(index): part.content for index, part in enumerate(parts)}
    content = parts[0].content
    if isinstance(content, dict) and content.keys() == {"result"}:
        return content["result"]
    return content
