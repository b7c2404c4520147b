"""Admission: how many calls of one tool run, how many wait, and when a caller is sent away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from aegis_agent.domain.errors import ToolQueueFull
from aegis_agent.domain.tool import ToolSpec

_SMOOTHING: Final = 0.2
_MIN_RETRY_S: Final = 0.1
_MAX_RETRY_S: Final = 60.0


class Admission:
    """The slots of one tool and its queue, first come first served.

    Waiting costs the caller's own deadline: it is cancelled from outside when that passes.
    """

    def __init__(self, spec: ToolSpec) -> None:
        self._spec = spec
        self._free = spec.concurrency
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_s = spec.default_timeout.total_seconds() / 10

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot; wait for one where none is free.

        Raises:
            ToolQueueFull: As many calls as may wait already do.
        """
        await self._acquire()
        begin = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            spent = asyncio.get_running_loop().time() - begin
            self._mean_s += _SMOOTHING * (spent - self._mean_s)
            self._release()

    async def _acquire(self) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._spec.queue_size:
            raise ToolQueueFull.of(
                self._spec.name,
                concurrency=self._spec.concurrency,
                queue_size=self._spec.queue_size,
                retry_after=self._retry_after(),
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:  # the slot was handed over in the same moment
                self._release()
            raise

    def _release(self) -> None:
        for turn in self._waiting:
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._free += 1

    def _retry_after(self) -> timedelta:
        estimate = self._mean_s * (len(self._waiting) + 1) / self._spec.concurrency
        return timedelta(seconds=min(max(estimate, _MIN_RETRY_S), _MAX_RETRY_S))
