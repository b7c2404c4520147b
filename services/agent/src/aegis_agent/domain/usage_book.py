"""What calls used, added up in memory until the ledger has it: no call waits for it, none fails by it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from aegis_agent.domain.usage import UsedCall, gib_hours

MAX_SUMS: Final = 10_000
"""Sums that are kept while the ledger is away; calls that would need another are dropped and counted."""


@dataclass(frozen=True, slots=True)
class SumKey:
    """What calls are added up by.

    Attributes:
        minute: Minutes since 1970 (UTC) in which they ended.
    """

    tenant: str
    tool: str
    model: str
    minute: int


@dataclass(slots=True)
class UsageSum:
    """The calls of one key; `id` is unique, so that it can be sent again.

    Attributes:
        start: When the first of them began.
        end: When the last of them ended.
    """

    key: SumKey
    start: datetime
    end: datetime
    calls: int = 0
    cpu_s: float = 0.0
    memory_gib_h: float = 0.0
    id: str = field(default_factory=lambda: f"calls-{uuid.uuid4().hex}")

    def add(self, call: UsedCall, start: datetime, end: datetime) -> None:
        """Count a call."""
        self.start, self.end = min(self.start, start), max(self.end, end)
        self.calls += 1
        self.cpu_s += call.usage.cpu_s or 0.0
        self.memory_gib_h += gib_hours(call.usage.peak_bytes or 0, call.seconds)


class UsageBook:
    """A `Uses` of the domain, bounded in memory.

    Args:
        clock: The time.
        max_sums: Most sums.

    Attributes:
        dropped: Calls that were dropped.
        unmeasured: Calls of which nothing measured what they used; the ledger does not hear of them.
    """

    def __init__(self, *, clock: Callable[[], datetime], max_sums: int = MAX_SUMS) -> None:
        self._clock = clock
        self._max_sums = max_sums
        self._open: dict[SumKey, UsageSum] = {}
        self._taken: dict[str, UsageSum] = {}
        self.dropped = 0
        self.unmeasured = 0

    def __len__(self) -> int:
        return len(self._open) + len(self._taken)

    def used(self, call: UsedCall) -> None:
        if call.usage.cpu_s is None:
            self.unmeasured += 1
            return
        end = self._clock()
        start = end - timedelta(seconds=call.seconds)
        key = SumKey(call.tenant, call.tool, call.model, int(end.timestamp() // 60))
        found = self._open.get(key)
        if found is None:
            if len(self) >= self._max_sums:
                self.dropped += 1
                return
            found = self._open[key] = UsageSum(key, start, end)
        found.add(call, start, end)

    def take(self, most: int) -> list[UsageSum]:
        """Return up to *most* sums; they change no more, and come again until they are `settled`."""
        for key in list(self._open)[: max(most - len(self._taken), 0)]:
            taken = self._open.pop(key)
            self._taken[taken.id] = taken
        return list(self._taken.values())[:most]

    def settled(self, taken: UsageSum, *, recorded: bool) -> None:
        """Forget a sum: the ledger has recorded it, or will never take it."""
        del self._taken[taken.id]
        if not recorded:
            self.dropped += taken.calls
