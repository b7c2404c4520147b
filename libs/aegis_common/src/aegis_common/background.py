"""Work that repeats in the background for as long as an `async with` block runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Self

_log = logging.getLogger(__name__)


class Every:
    """Runs *work* every *interval*, the first time after one interval; use as `async with`.

    An exception is logged and the next turn comes as usual; leaving the block cancels the work.

    Args:
        interval: Pause between the end of one turn and the start of the next; a function when it varies.
        work: What to do.
        name: Name of the task, for logs.
    """

    def __init__(
        self,
        interval: timedelta | Callable[[], timedelta],
        work: Callable[[], Awaitable[None]],
        *,
        name: str,
    ) -> None:
        self._interval = interval
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self._name)
        return self

    async def __aexit__(self, *exception: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            pause = self._interval if isinstance(self._interval, timedelta) else self._interval()
            await asyncio.sleep(pause.total_seconds())
            try:
                await self._work()
            except Exception:
                _log.exception("%s failed", self._name)
