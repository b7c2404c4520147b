"""Tools that note each of their starts, so that tests can count them; children import this module."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

from aegis_agent import tool
from aegis_agent.context import AsyncContext, Context


def _note(file: str, key: str) -> None:
    """Write one line, whole or not at all, into a file that other processes write too."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{key} {os.getpid()} {time.monotonic_ns()}\n".encode())
    finally:
        os.close(descriptor)


@tool(concurrency=64, queue_size=256, idempotent=True)
async def note_again(file: str, key: str, seconds: float = 0.0) -> str:
    """Notes its start and waits; idempotent."""
    _note(file, key)
    await asyncio.sleep(seconds)
    return key


@tool(concurrency=64, queue_size=256)
async def note_once(file: str, key: str, seconds: float = 0.0) -> str:
    """Notes its start and waits; not idempotent."""
    _note(file, key)
    await asyncio.sleep(seconds)
    return key


@tool(concurrency=2, queue_size=256, idempotent=True)
def note_in_child(file: str, key: str, seconds: float = 0.0) -> str:
    """Notes its start and waits, in a child process; idempotent."""
    _note(file, key)
    time.sleep(seconds)
    return key


@tool(concurrency=2, queue_size=256)
def note_once_in_child(file: str, key: str, seconds: float = 0.0) -> str:
    """Notes its start and waits, in a child process; not idempotent."""
    _note(file, key)
    time.sleep(seconds)
    return key


@tool(idempotent=True)
def crash_until(file: str, starts: int) -> int:
    """Counts its starts in a file, and dies until it has been started so often."""
    _note(file, "start")
    count = len(Path(file).read_text().splitlines())
    if count < starts:
        os._exit(9)
    return count


@tool(idempotent=True)
def count_on(context: Context, file: str, upto: int = 5) -> list[int]:
    """Counts from its checkpoint, tells of it, and dies in the middle of its first attempt."""
    begin = int(context.checkpointed or b"0")
    counted = []
    for number in range(begin, upto):
        counted.append(number)
        context.checkpoint(str(number + 1).encode())
        context.progress(number + 1, upto, f"counted {number}")
        context.log.info("at %d", number)
        if number == 2 and context.attempt == 1:
            _note(file, context.job)
            os._exit(9)
    return counted


@tool(concurrency=8, idempotent=True)
async def tell(context: AsyncContext, lines: int = 3) -> str:
    """Tells progress and log lines."""
    for number in range(lines):
        await context.progress(number + 1, lines, f"step {number}")
        context.log.warning("line %d", number)
    return "told"


@tool(concurrency=8, idempotent=True)
async def half_text(context: AsyncContext, how: str) -> str:
    """Tells, returns or raises half of a character pair, as a file name that is no UTF-8 has it."""
    text = "\udcff"
    if how == "progress":
        await context.progress(1, 2, text)
    if how == "log":
        context.log.warning(text)
    if how == "raise":
        raise ValueError(text)
    return text if how == "return" else "whole"


@tool(concurrency=1, queue_size=64, default_timeout=timedelta(seconds=0.8))
async def one_at_a_time(seconds: float = 0.0) -> str:
    """Waits; one call at a time."""
    await asyncio.sleep(seconds)
    return "waited"
