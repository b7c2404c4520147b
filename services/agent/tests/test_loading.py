"""Artifacts on their way into calls: few at once, and none for a call that would be sent away."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from aegis_agent import AgentManager
from aegis_agent.domain.artifacts import Artifact
from aegis_agent.domain.errors import ToolQueueFull
from aegis_agent.domain.parts import ArtifactRef, Part

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Shelf:
    """Artifacts of one byte, which take a while to read."""

    max_load_bytes = 1 << 20

    def __init__(self) -> None:
        self.reads = 0

    async def describe(self, name: str) -> Artifact:
        return Artifact(
            sha256=name.removeprefix("artifacts/"),
            size_bytes=1,
            media_type="application/octet-stream",
            filename="",
            created_at=NOW,
            expires_at=NOW,
        )

    async def read(self, name: str) -> bytes:
        self.reads += 1
        await asyncio.sleep(0.01)
        return b"x"

    async def save(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        raise NotImplementedError


async def test_a_call_that_finds_a_full_queue_is_sent_away_before_its_artifacts_are_loaded() -> None:
    shelf, done = Shelf(), asyncio.Event()

    async def waits(data: bytes) -> int:
        await done.wait()
        return len(data)

    async with AgentManager(artifacts=lambda _: shelf) as manager:
        manager.register_tool("waits", waits, concurrency=1, queue_size=1)
        payload = [Part(ArtifactRef(f"artifacts/{'a' * 64}"), name="data")]
        calls = [asyncio.create_task(manager.dispatch("waits", payload)) for _ in range(40)]
        _, pending = await asyncio.wait(calls, timeout=0.5)
        done.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert len(pending) == 2
    assert [item for item in outcomes if not isinstance(item, ToolQueueFull)] == [1, 1]
    assert shelf.reads <= 8
