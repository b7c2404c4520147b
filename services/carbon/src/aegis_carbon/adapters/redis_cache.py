"""The cache shared by all replicas, in Redis; while Redis is away, each replica uses its own memory."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from aegis_carbon.adapters.memory_cache import MemoryCache
from aegis_carbon.adapters.records import UnreadableRecord, from_record, to_record
from aegis_carbon.domain.providers import CacheEntry, CacheKey, Topic
from aegis_common.clock import Clock

TIMEOUT_S: Final = 0.5
"""Longest wait for Redis; a slower one counts as away."""
PAUSE_S: Final = 1.0
"""How long Redis is left alone after a fault, so that its outage does not slow down each call."""
WITHOUT_REDIS: Final = "without redis"
AWAY: Final = object()
"""Stands for the answer of a Redis that gave none."""

# Deletes the lease only while it is still ours: it may have ended and gone to another replica.
_RELEASE: Final = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""

_log = logging.getLogger(__name__)


def connect(url: str) -> redis.asyncio.Redis:
    """Return a client that gives up quickly; *url* is redis://, rediss:// or unix://."""
    return redis.asyncio.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )


class RedisCache:
    """Keys begin with `carbon:`; intensities are public facts, so one entry serves every tenant.

    Args:
        client: From `connect`; the caller closes it.
        clock: Time for the entries kept in memory.
        on_fault: Called with the operation for each fault of Redis.
    """

    def __init__(self, client: redis.asyncio.Redis, *, clock: Clock, on_fault: Callable[[str], None]) -> None:
        self._redis = client
        self._memory = MemoryCache(clock)
        self._on_fault = on_fault
        self._paused_until = 0.0

    async def get(self, key: CacheKey) -> CacheEntry[Any] | None:
        record = await self._try("get", lambda: self._redis.get(_name("entry", key)))
        if record is AWAY:
            return await self._memory.get(key)
        try:
            return from_record(record) if isinstance(record, str | bytes) else None
        except UnreadableRecord as error:
            # The next answer overwrites it: nothing but a cache is lost.
            _log.warning("cache entry of zone %s of provider %s: %s", key.zone, key.provider, error)
            self._on_fault("decode")
            return None

    async def put(self, key: CacheKey, entry: CacheEntry[Any], *, keep: timedelta) -> None:
        await self._memory.put(key, entry, keep=keep)
        name, record = _name("entry", key), to_record(entry)
        await self._try("put", lambda: self._redis.set(name, record, px=_milliseconds(keep)))

    async def acquire(self, key: CacheKey, *, hold: timedelta) -> str | None:
        name, lease = _name("lease", key), secrets.token_hex(16)
        taken = await self._try(
            "acquire", lambda: self._redis.set(name, lease, nx=True, px=_milliseconds(hold))
        )
        if taken is AWAY:
            return WITHOUT_REDIS
        return lease if taken else None

    async def release(self, key: CacheKey, lease: str) -> None:
        if lease == WITHOUT_REDIS:
            return
        name = _name("lease", key)
        await self._try(
            "release", lambda: cast("Awaitable[object]", self._redis.eval(_RELEASE, 1, name, lease))
        )

    async def _try(self, operation: str, call: Callable[[], Awaitable[object]]) -> object:
        """Return what Redis answers, or `AWAY`."""
        if time.monotonic() < self._paused_until:
            return AWAY
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                return await call()
        except (RedisError, OSError, TimeoutError) as error:
            self._paused_until = time.monotonic() + PAUSE_S
            self._on_fault(operation)
            _log.warning("cache: Redis failed to %s, going on without: %s", operation, type(error).__name__)
            return AWAY


def _name(kind: str, key: CacheKey) -> str:
    topic = "" if key.topic is Topic.PRESENT else f":{key.topic.value}"
    return f"carbon:{kind}:{key.provider}:{key.zone}{topic}"


def _milliseconds(span: timedelta) -> int:
    return max(1, round(span.total_seconds() * 1000))
