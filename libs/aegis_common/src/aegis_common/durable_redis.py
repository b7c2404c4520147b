"""The connection to a Redis that holds what must not be lost, and the proof that it keeps what it takes."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from aegis_common.errors import AegisError, ConfigurationError

TIMEOUT_S: Final = 5.0
"""Longest wait for one answer."""
LIMIT_S: Final = 8.0
"""Longest wait for one piece of work, with a second try and with the wait for a connection."""
_CONNECTIONS: Final = 64
_RETRY_PAUSE_S: Final = 0.05
_AWAY: Final = re.compile(
    r"(?:^|-)(?:OOM|MISCONF|LOADING|MASTERDOWN|READONLY|NOREPLICAS|BUSY|NOAUTH|UNBLOCKED)\b"
)
"""Code of the answers of a Redis that cannot take a write now; a script has it in the middle of its error."""
_CODES: Final[dict[type[BaseException], str]] = {OutOfMemoryError: "OOM", ReadOnlyError: "READONLY"}
_DEMOTED: Final = re.compile(r"(?:^|-)(?:READONLY|MASTERDOWN)\b")
_log: Final = logging.getLogger(__name__)

T = TypeVar("T")


def connect(url: str) -> redis.asyncio.Redis:
    """Return a client for *url*: redis://, rediss:// or unix://."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        # The shape of answers depends on the protocol.
        protocol=2,
        # One more try: a connection that was idle while Redis restarted is dead when it is next used. Each
        # write bears being sent twice: it names the revision that it changes.
        retry=Retry(ConstantBackoff(_RETRY_PAUSE_S), 1),
        retry_on_error=[redis.exceptions.ConnectionError],
    )
    return redis.asyncio.Redis.from_pool(pool)


class DurableRedis:
    """Runs commands; a fault becomes an error of the caller's own, and is remembered.

    Args:
        client: From `connect`; the caller closes it.
        unavailable: Makes the error for a Redis that does not answer, or takes no writes, of the cause.
        kept: What it holds, in one word, for messages: `jobs`.
        advice: How to use a Redis that fails the proof, for tests and development.
        slow_s: A wait for longer than that is an outage too: nobody was served meanwhile.
        limit_s: Longest wait for one piece of work.
        checked: Whether the proof of durability has been given already.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        unavailable: Callable[[str], AegisError],
        kept: str,
        advice: str,
        slow_s: float = TIMEOUT_S,
        limit_s: float = LIMIT_S,
        checked: bool = False,
    ) -> None:
        self.client: Final = client
        self._unavailable = unavailable
        self._kept, self._advice = kept, advice
        self._limit_s = limit_s
        self._slow_s = slow_s
        self._steady_since = time.monotonic()
        self._checked = checked
        self._unsafe = ""

    @property
    def checked(self) -> bool:
        """Whether the proof of durability has been given."""
        return self._checked

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Return what *work* gives.

        Raises:
            AegisError: Redis does not answer, or takes no writes; made by `unavailable`.
        """
        if not self._checked:
            raise self._unavailable(self._unsafe or "it has not been reached since the start")
        return await self._run(work)

    async def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        begin = time.monotonic()
        try:
            async with asyncio.timeout(self._limit_s):
                return await work(self.client)
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, ResponseError) and not _says(error, _AWAY):
                raise  # a fault of ours
            self._steady_since = time.monotonic()
            if _says(error, _DEMOTED):
                # Its name may lead to another primary by now: the next command asks for it.
                await self.client.connection_pool.disconnect(inuse_connections=False)
            raise self._unavailable(_cause(error)) from error
        finally:
            if time.monotonic() - begin > self._slow_s:
                self._steady_since = time.monotonic()

    def steady_for(self) -> float:
        """Return for how many seconds no command has failed, or was slow."""
        return time.monotonic() - self._steady_since

    async def check(self, *, strict: bool) -> None:
        """Make sure that Redis keeps what it acknowledges; only then is it used.

        Raises:
            ConfigurationError: It does not.
            AegisError: It does not answer; made by `unavailable`.
        """
        faults = await self._run(_faults)
        fatal = [fault for fault in faults if fault.fatal or strict]
        if fatal:
            self._unsafe = "; ".join(fault.text for fault in fatal)
            raise ConfigurationError(
                f"REDIS_URL names a Redis that may lose {self._kept}: {self._unsafe}. Mend its "
                f"configuration; for tests and development, {self._advice} takes it as it is"
            )
        for fault in faults:
            _log.warning("%s MAY BE LOST: the store is used although %s", self._kept.upper(), fault.text)
        self._checked = True


class _Fault:
    def __init__(self, text: str, *, fatal: bool = False) -> None:
        self.text = text
        self.fatal = fatal


async def _faults(client: redis.asyncio.Redis) -> list[_Fault]:
    info: dict[str, Any] = await client.info("everything")
    faults = []
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled"):
        text = "it is a Redis Cluster, which cannot change several keys in one step"
        return [_Fault(text, fatal=True)]
    if info.get("role") in ("slave", "replica"):
        return [_Fault("it is a read-only replica: name the primary", fatal=True)]
    if not info.get("aof_enabled"):
        faults.append(_Fault("it has no append-only file: set `appendonly yes`"))
    policy = str(info.get("maxmemory_policy", ""))
    if policy != "noeviction":
        faults.append(_Fault(f"it evicts keys (maxmemory-policy {policy}): set `noeviction`"))
    return [*faults, *await _sync_faults(client), *await _right_faults(client)]


async def _right_faults(client: redis.asyncio.Redis) -> list[_Fault]:
    try:
        await client.time()
    except ResponseError as error:
        return [_Fault(f"it does not tell its time ({error}): allow this user TIME", fatal=True)]
    return []


async def _sync_faults(client: redis.asyncio.Redis) -> list[_Fault]:
    try:
        found = await client.config_get("appendfsync")
    except ResponseError as error:
        return [_Fault(f"it does not tell its `appendfsync` ({error}): allow this user CONFIG GET")]
    mode = str(found.get("appendfsync", "unknown"))
    if mode == "always":
        return []
    return [_Fault(f"it acknowledges what is not on disk yet (appendfsync {mode}): set `appendfsync always`")]


def _says(error: BaseException, code: re.Pattern[str]) -> bool:
    # The library takes the code out of an error that it has a class for.
    return bool(code.search(f"{_CODES.get(type(error), '')} {error}".strip()))


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())[:120]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
