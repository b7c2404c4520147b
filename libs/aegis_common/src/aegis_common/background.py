"""Work in the background: work that repeats while an `async with` block runs, and tasks that really end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Self

_AGAIN_S: Final = 1.0
_log: Final = logging.getLogger(__name__)


async def ended(*tasks: asyncio.Task[Any] | None, again_s: float = _AGAIN_S) -> None:
    """Cancel tasks and wait until they have ended; whatever they raise is let go.

    A library may take a cancellation for its own timeout and swallow it, so that the task goes on: it is
    cancelled again until it ends.

    Args:
        tasks: What has to end; None stands for a task that was never started.
        again_s: How long a task may tidy up until it is cancelled again, in seconds.
    """
    begun = {task for task in tasks if task is not None}
    left = begun
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
    for task in begun:
        if not task.cancelled():
            task.exception()  # seen: asyncio need not warn of it


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
        await ended(task)

    async def _run(self) -> None:
        while True:
            pause = self._interval if isinstance(self._interval, timedelta) else self._interval()
            await asyncio.sleep(pause.total_seconds())
            try:
                await self._work()
            except Exception:
                _log.exception("%s failed", self._name)
