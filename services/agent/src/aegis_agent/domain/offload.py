"""Keeps the event loop free: work on a large value goes to a thread, on a small one it is done at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

LARGE: Final = 2_000
"""Elements from which a value counts as large; checking that many takes some 10 ms."""

T = TypeVar("T")


async def offloaded(work: Callable[[Any], T], value: Any) -> T:
    """Return `work(value)`, from a thread when *value* has many elements."""
    if count(value, LARGE) >= LARGE:
        return await asyncio.to_thread(work, value)
    return work(value)


def count(value: Any, limit: int) -> int:
    """Return how many elements a JSON value has, or *limit* when there are at least that many."""
    found = 0
    pending = [value]
    while pending and found < limit:
        item = pending.pop()
        found += 1
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            if found + len(item) >= limit:
                return limit
            pending.extend(item)
    return found
