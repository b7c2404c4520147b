"""What a call gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from aegis_agent.domain.tool import Tool
from aegis_agent.domain.usage import UNMEASURED, Usage


@dataclass(frozen=True, slots=True)
class Result:
    """What one call gave.

    Attributes:
        value: JSON values, and bytes; the list of all items of a tool that streams, or None when they have
            been passed on one by one.
        tool: The tool that ran, as it was then.
        execution_time: From the start of the tool to its end.
        queue_time: How long the call waited for a slot.
        cached: The result was there, or being made for another call; the times are 0 then.
        usage: What the call used; nothing is known of a cached one.
    """

    value: Any
    tool: Tool
    execution_time: timedelta
    queue_time: timedelta
    cached: bool = False
    usage: Usage = UNMEASURED

    def from_cache(self) -> Result:
        """Return the same result as one that took no time."""
        none = timedelta(0)
        return replace(self, execution_time=none, queue_time=none, cached=True, usage=UNMEASURED)
