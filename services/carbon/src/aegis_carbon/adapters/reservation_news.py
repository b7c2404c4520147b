"""Announcements between replicas: a reservation has changed.

They are hints that make things quick: whoever waits for one looks by itself from time to time, so that a lost
announcement delays, and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import redis.asyncio

from aegis_carbon.adapters import reservation_keys as keys
from aegis_carbon.domain.reservations.store import Ref
from aegis_common.background import ended
from aegis_common.redis_listening import heard, listen

_log: Final = logging.getLogger(__name__)


class News:
    """Listens on one connection; use as `async with`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._watched: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._any = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(
            listen(self._client, self._follow, lost=_lost), name="reservation news"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await ended(self._task)

    async def anything(self, *, at_most_s: float) -> None:
        """Return when any reservation has changed, after *at_most_s* seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._any.wait()
        self._any.clear()

    @contextmanager
    def of(self, ref: Ref) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the reservation has changed; clear it before looking."""
        member, news = keys.member(ref), asyncio.Event()
        self._watched[member].add(news)
        try:
            yield news
        finally:
            self._watched[member].discard(news)
            if not self._watched[member]:
                del self._watched[member]

    async def _follow(self, pubsub: Any) -> None:
        await pubsub.subscribe(keys.NEWS)
        async for message in heard(pubsub):
            if message is not None:
                self._take(message)

    def _take(self, message: Any) -> None:
        if message["type"] == "message":
            told = self._watched.get(message["data"].decode(), set())
        elif message["type"] == "subscribe":
            # What came before the subscription was not heard.
            told = set().union(*self._watched.values())
        else:
            return
        self._any.set()
        for news in told:
            news.set()


def _lost(error: BaseException) -> None:
    _log.warning("reservation news: Redis is away (%s)", type(error).__name__)
