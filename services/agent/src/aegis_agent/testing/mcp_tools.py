"""Tools that show each kind of result over MCP; children import this module by its name."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from aegis_agent import Artifact, Audio, Blob, Image, tool
from aegis_agent.context import AsyncContext
from aegis_agent.testing.tools import spin

PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def wav() -> bytes:
    """Return one sample of silence."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\0\0")
    return buffer.getvalue()


class Basket(BaseModel):
    items: list[str]
    total: int


async def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def basket(names: list[str]) -> Basket:
    return Basket(items=names, total=len(names))


async def picture() -> Image:
    return Image(PNG)


async def mixed() -> list[str | Image | Audio | Blob]:
    return ["see:", Image(PNG), Audio(wav()), Blob(b"plain", "text/plain", "note.txt")]


async def keep(text: str, context: AsyncContext) -> Artifact:
    return Artifact(await context.save_artifact(text.encode(), media_type="text/plain", filename="kept.txt"))


async def large(size: int) -> bytes:
    return bytes(size)


async def size_of(data: bytes) -> int:
    return len(data)


async def fail() -> str:
    raise RuntimeError("on purpose")


@tool(tags=("task",))
async def shout(text: str, data: bytes | None = None) -> str:
    """Say it louder, as a task where the client knows tasks."""
    if text == "quiet":
        raise RuntimeError("on purpose")
    return text.upper() + "!" * len(data or b"")


@tool(default_timeout=timedelta(seconds=0.2))
async def too_slow() -> str:
    await asyncio.sleep(60)
    return "late"


async def steps(context: AsyncContext) -> str:
    context.log.info("begun")
    for done in (1, 2, 3):
        await context.progress(done, 3, f"step {done}")
    return "done"


async def watched(begun: str, ended: str) -> str:
    _touch(begun)
    try:
        await asyncio.sleep(60)
    finally:
        _touch(ended)
    return "late"


def _touch(path: str) -> None:
    Path(path).touch()


_released: Final = asyncio.Event()


async def waits(context: AsyncContext) -> str:
    """Go on when `release` is called, at the latest after a while."""
    await context.progress(1, 2)
    async with asyncio.timeout(20):
        await _released.wait()
    _released.clear()
    await context.progress(2, 2)
    return "done"


async def release() -> str:
    _released.set()
    return "released"


@tool(roles=frozenset({"admin"}))
async def for_admins() -> str:
    return "secret"


TOOLS: Final[dict[str, Callable[..., Any]]] = {
    function.__name__: function
    for function in (
        add, basket, fail, for_admins, keep, large, mixed, picture, release, shout, size_of, spin, steps,
        too_slow, waits, watched,
    )
}  # fmt: skip
