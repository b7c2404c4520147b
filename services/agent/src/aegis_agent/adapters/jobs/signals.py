"""Announcements between agents: there is work, a job was cancelled, a job has a new event.

They are hints that make things quick: whoever waits for one looks by itself from time to time, so that a lost
announcement delays, and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import redis.asyncio

from aegis_agent.adapters.jobs import keys
from aegis_agent.domain.jobs.job import JobRef
from aegis_common.background import ended
from aegis_common.redis_listening import QUIET_S, heard, listen

_log: Final = logging.getLogger(__name__)


class Signals:
    """Listens on one connection; use as `async with`.

    Args:
        client: To Redis.
        on_cancel: Called with each job that was cancelled somewhere.
        quiet_s: Silence after which the connection is asked whether it is there; after as much again it is
            given up.
    """

    def __init__(
        self, client: redis.asyncio.Redis, *, on_cancel: Callable[[JobRef], None], quiet_s: float = QUIET_S
    ) -> None:
        self._quiet_s = quiet_s
        self._client = client
        self._on_cancel = on_cancel
        self._work = asyncio.Event()
        self._watched: Counter[str] = Counter()
        self._news: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(listen(self._client, self._follow, lost=_lost), name="job signals")
        return self

    async def __aexit__(self, *_: object) -> None:
        await ended(self._task)

    def wake(self) -> None:
        """Let whoever waits for work look now."""
        self._work.set()

    async def work(self, *, at_most_s: float) -> None:
        """Return when there may be work, after *at_most_s* seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._work.wait()
        self._work.clear()

    @contextmanager
    def watching(self, ref: JobRef) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the job may have something new; clear it before looking."""
        channel = keys.channel(ref)
        self._watched[channel] += 1
        news = self._news.setdefault(channel, asyncio.Event())
        self._changed.set()
        try:
            yield news
        finally:
            self._watched[channel] -= 1
            if not self._watched[channel]:
                del self._watched[channel], self._news[channel]
                self._changed.set()

    async def _follow(self, pubsub: Any) -> None:
        await pubsub.subscribe(keys.SIGNALS)
        self._wake_everybody()
        subscribing = asyncio.create_task(self._subscribe(pubsub), name="job signals: subscriptions")
        try:
            async for message in heard(pubsub, quiet_s=self._quiet_s):
                if message is not None:
                    self._take(message)
                if subscribing.done():
                    subscribing.result()
        finally:
            await ended(subscribing)

    async def _subscribe(self, pubsub: Any) -> None:
        """Follow the channels of those who watch."""
        subscribed: set[str] = set()
        while True:
            self._changed.clear()
            wanted = set(self._news)
            if new := wanted - subscribed:
                await pubsub.subscribe(*new)
            if old := subscribed - wanted:
                await pubsub.unsubscribe(*old)
            for channel in new & self._news.keys():  # what came before the subscription was not heard
                self._news[channel].set()
            subscribed = wanted
            await self._changed.wait()

    def _take(self, message: Any) -> None:
        if message["type"] != "message":
            return
        channel, data = message["channel"].decode(), message["data"].decode()
        if channel != keys.SIGNALS:
            if channel in self._news:
                self._news[channel].set()
        elif data == keys.WORK:
            self._work.set()
        elif data.startswith(keys.CANCEL):
            self._on_cancel(JobRef.of_member(data.removeprefix(f"{keys.CANCEL} ")))

    def _wake_everybody(self) -> None:
        self._work.set()
        for news in self._news.values():
            news.set()


def _lost(error: BaseException) -> None:
    _log.warning("job signals: Redis is away (%s)", type(error).__name__)
