"""How many more calls would start at once."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

Key = tuple[str, str]
"""Owner of a tool (empty: everyone) and its name."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """A moment's view of the tools of a process.

    Attributes:
        of_tool: How many more calls of each tool would get a slot of the tool at once.
        sharing: Tools whose calls need one of the shared slots as well.
        shared: How many of those are free; None means any number.
    """

    of_tool: Mapping[Key, int] = field(default_factory=dict)
    sharing: Set[Key] = frozenset()
    shared: int | None = None
