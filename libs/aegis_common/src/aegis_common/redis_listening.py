"""Listens to channels of Redis, over outages and over connections that went silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError

QUIET_S: Final = 5.0
REDIS_AWAY: Final = (RedisError, OSError, TimeoutError)
_PAUSE_S: Final = 0.5


async def listen(
    client: redis.asyncio.Redis,
    session: Callable[[Any], Awaitable[None]],
    *,
    lost: Callable[[BaseException], None],
) -> None:
    """Run *session* with a pubsub of its own, and again with another one whenever its connection breaks.

    Args:
        client: To Redis.
        session: Subscribes, and takes messages until it fails; what came before it subscribed was not heard.
        lost: Called with what broke the connection.
    """
    while True:
        try:
            async with client.pubsub() as pubsub:
                await session(pubsub)
        except REDIS_AWAY as error:
            lost(error)
            await asyncio.sleep(_PAUSE_S)


async def heard(pubsub: Any, *, quiet_s: float = QUIET_S) -> AsyncIterator[Mapping[str, Any] | None]:
    """Yield every message of a pubsub, and None after each *quiet_s* seconds without one.

    Raises:
        TimeoutError: The connection was asked whether it is there, and was silent for as long again.
    """
    asked = False
    while True:
        message = await pubsub.get_message(timeout=quiet_s)
        if message is None and asked:
            raise TimeoutError(f"redis said nothing for {2 * quiet_s:g} s")
        if message is None:
            await pubsub.ping()
        asked = message is None
        yield message
