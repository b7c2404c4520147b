"""What calls used, added up in memory until the ledger has it: no call waits for it, none fails by it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aegis_agent.domain.usage import UsedCall, gib_hours

MAX_SUMS: Final = 10_000
"""Sums that are kept while the ledger is away; calls that would need another are dropped and counted."""


class SumKey(NamedTuple):
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
        start_s: When the first of them began, in Unix time.
        end_s: When the last of them ended, in Unix time.
    """

    key: SumKey
    start_s: float
    end_s: float
    calls: int = 0
    cpu_s: float = 0.0
    memory_gib_h: float = 0.0
    id: str = field(default_factory=lambda: f"calls-{uuid.uuid4().hex}")

    @property
    def start(self) -> datetime:
        """When the first of them began."""
        return datetime.fromtimestamp(self.start_s, UTC)

    @property
    def end(self) -> datetime:
        """When the last of them ended."""
        return datetime.fromtimestamp(self.end_s, UTC)

    def add(self, cpu_s: float, peak_bytes: int | None, seconds: float, end_s: float) -> None:
        """Count a call that took so many seconds, and ended then."""
        self.calls += 1
        self.cpu_s += cpu_s
        if end_s - seconds < self.start_s:
            self.start_s = end_s - seconds
        if end_s > self.end_s:
            self.end_s = end_s
        if peak_bytes:
            self.memory_gib_h += gib_hours(peak_bytes, seconds)


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
        tenant, tool, model, (cpu_s, peak_bytes), seconds = call
        if cpu_s is None:
            self.unmeasured += 1
            return
        end_s = self._clock().timestamp()
        key = SumKey(tenant, tool, model, int(end_s // 60))
        found = self._open.get(key)
        if found is None:
            if len(self) >= self._max_sums:
                self.dropped += 1
                return
            found = self._open[key] = UsageSum(key, end_s - seconds, end_s)
        found.add(cpu_s, peak_bytes, seconds, end_s)

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
