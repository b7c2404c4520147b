"""Waiting for something that happens in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], *, timeout_s: float = 20) -> None:
    """Return as soon as *condition* is true.

    Raises:
        TimeoutError: It stays false; the limit only guards against a hang.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # the condition is any state, without an event of its own
            await asyncio.sleep(0.01)
