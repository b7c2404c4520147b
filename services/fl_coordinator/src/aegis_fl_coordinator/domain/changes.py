"""Wakes whoever waits for a run to change."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta


class Changes:
    """One event per run; a waiter that comes late looks at the run first and misses nothing."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def notify(self, run_id: str) -> None:
        """Wake everybody who waits for *run_id*."""
        for event in self._waiting.get(run_id, ()):
            event.set()

    async def wait(self, run_id: str, *, at_most: timedelta) -> None:
        """Return when *run_id* changed, or after *at_most*."""
        event = asyncio.Event()
        self._waiting[run_id].add(event)
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                await event.wait()
        except TimeoutError:
            return
        finally:
            self._waiting[run_id].discard(event)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
