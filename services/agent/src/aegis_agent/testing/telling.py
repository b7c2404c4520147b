"""Tools that use their context, and tools that stream; children import this module by its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from aegis_agent.context import Context


class Word(BaseModel):
    text: str
    length: int


def report(context: Context) -> str:
    context.progress(1, 3, "read")
    context.log.info("half of %s", "it")
    context.log.debug("not for callers")
    context.log.error("bad")
    context.progress(3.0)
    return "done"


def facts(context: Context) -> dict[str, Any]:
    return {
        "tenant": context.tenant,
        "attempt": context.attempt,
        "job": context.job,
        "checkpointed": context.checkpointed,
        "cancelled": context.cancelled,
        "time_left": context.time_left(),
    }


def save_state(size: int, context: Context) -> int:
    context.checkpoint(bytes(size))
    return size


def through_artifacts(name: str, context: Context) -> str:
    data = context.read_artifact(name)
    return context.save_artifact(data.upper(), media_type="text/plain", filename="loud.txt")


def words(text: str) -> Iterator[Word]:
    for item in text.split():
        yield Word(text=item, length=len(item))


def count_up(path: str, most: int) -> Iterator[int]:
    """Yield numbers, and write down how far it has come."""
    for number in range(most):
        Path(path).write_text(str(number))
        yield number


def items_then_spin(count: int) -> Iterator[int]:
    yield from range(count)
    while True:
        pass


def break_off(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number])
    raise ValueError("no more")


def wrong_items() -> Iterator[int]:
    yield 1
    yield "two"  # type: ignore[misc]


def tidy_up(path: str, context: Context) -> str:
    """Work until it is cancelled, then save what there is."""
    Path(path).write_text(str(os.getpid()))
    while not context.cancelled:
        time.sleep(0.01)
    context.checkpoint(b"tidy")
    Path(path).write_text("tidied up")
    return "partial"


def stubborn(path: str, context: Context) -> int:
    """Never heed the cancellation."""
    Path(path).write_text(str(os.getpid()))
    while True:
        context.time_left()


def flood(count: int, context: Context) -> int:
    for number in range(count):
        context.progress(number, count, "x" * 1000)
    return count


def progress_not_a_number(context: Context) -> int:
    context.progress(float("nan"))
    return 1
