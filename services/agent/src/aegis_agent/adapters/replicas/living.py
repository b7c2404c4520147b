"""Records in Redis that live for as long as whoever writes them: what a process says of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import redis.asyncio

LIFE: Final = timedelta(seconds=5)
"""How long a record lasts that is not renewed."""
_LIFE_MS: Final = LIFE // timedelta(milliseconds=1)


class Living:
    """One record for each process, found through an index.

    Args:
        client: Redis.
        index: Key of the set of all processes.
        prefix: What the key of a record begins with; the process' id follows.
        own: Id of this process.
    """

    def __init__(self, client: redis.asyncio.Redis, *, index: str, prefix: str, own: str) -> None:
        self._client = client
        self._index = index
        self._prefix = prefix
        self._own = own

    async def tell(self, record: str) -> None:
        """Write this process' record, or renew it.

        Raises:
            RedisError, OSError, TimeoutError: Redis does not answer; so do all methods.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set(self._prefix + self._own, record, px=_LIFE_MS)
            pipe.sadd(self._index, self._own)
            await pipe.execute()

    async def others(self) -> dict[str, str]:
        """Return the records of the other processes that live, by id."""
        members = await self._client.smembers(self._index)
        others = sorted(text(item) for item in members if text(item) != self._own)
        if not others:
            return {}
        records = await self._client.mget([self._prefix + item for item in others])
        gone = [item for item, record in zip(others, records, strict=True) if record is None]
        if gone:
            await self._client.srem(self._index, *gone)
        pairs = zip(others, records, strict=True)
        return {item: text(record) for item, record in pairs if record is not None}

    async def leave(self) -> None:
        """Remove this process' record."""
        await self._client.delete(self._prefix + self._own)
        await self._client.srem(self._index, self._own)


def text(value: Any) -> str:
    """Return what Redis gives as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
