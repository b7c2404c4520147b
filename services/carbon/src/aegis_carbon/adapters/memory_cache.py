"""The cache of one process: for use without Redis, and while Redis is away."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from aegis_carbon.domain.providers import CacheEntry, CacheKey
from aegis_common.clock import Clock

MOST_ENTRIES: Final = 10_000
_LEASE: Final = "in process"


class MemoryCache:
    """Grants every lease: within one process the lookup already asks once for all callers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[CacheKey, tuple[datetime, CacheEntry[Any]]] = {}

    async def get(self, key: CacheKey) -> CacheEntry[Any] | None:
        until, entry = self._entries.get(key, (None, None))
        return entry if until is not None and self._clock() < until else None

    async def put(self, key: CacheKey, entry: CacheEntry[Any], *, keep: timedelta) -> None:
        if len(self._entries) >= MOST_ENTRIES and key not in self._entries:
            self._entries.pop(next(iter(self._entries)))
        self._entries[key] = (self._clock() + keep, entry)

    async def acquire(self, key: CacheKey, *, hold: timedelta) -> str | None:  # noqa: ARG002
        return _LEASE

    async def release(self, key: CacheKey, lease: str) -> None:
        pass
