"""Asks providers once for all callers: cached, shared between processes, never in a hurry to ask again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from aegis_carbon.domain.breaker import BREAKER_OPEN, LONGEST_PAUSE, Breaker
from aegis_carbon.domain.providers import CacheEntry, CacheKey, IntensityCache, Observer, ProviderError
from aegis_common.clock import Clock

T = TypeVar("T")

NO_DATA: Final = "NO_DATA"
TIMEOUT: Final = "TIMEOUT"
UNEXPECTED: Final = "UNEXPECTED"
_POLL_S: Final = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LookupPolicy:
    """How long answers last.

    Attributes:
        ttl: How long a value is used before the provider is asked again.
        max_stale: How long after the end of its slot a value may still be used, as stale.
        pause: How long a provider is left alone after a failure or an answer without data.
        budget: Longest time for one question to a provider, retries included.
    """

    ttl: timedelta = timedelta(minutes=5)
    max_stale: timedelta = timedelta(hours=2)
    pause: timedelta = timedelta(seconds=60)
    budget: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What a provider is asked about a zone.

    Attributes:
        ask: Asks it, given the last good answer; returns None when the provider has nothing.
        ask_after: Given an answer, the moment from which on there may be a better one.
        keep: How long an entry is of use.
    """

    ask: Callable[[T | None], Awaitable[T | None]]
    ask_after: Callable[[T], datetime]
    keep: Callable[[CacheEntry[T]], timedelta]


class Asking:
    """Puts questions to providers.

    A provider is asked once for all callers (in this process by a shared task, between processes by a lease
    in the cache), and one that failed is left alone for a while.
    """

    def __init__(
        self, cache: IntensityCache, *, policy: LookupPolicy, clock: Clock, observer: Observer
    ) -> None:
        self._cache = cache
        self._policy = policy
        self._clock = clock
        self._observer = observer
        self.breaker: Final = Breaker(pause=policy.pause, clock=clock)
        self._flights: dict[CacheKey, asyncio.Task[CacheEntry[Any]]] = {}

    async def entry(
        self, key: CacheKey, question: Question[T]
    ) -> tuple[CacheEntry[T] | None, asyncio.Task[CacheEntry[T]] | None]:
        """Return what the cache has, and the running question when it is time for one."""
        entry = await self._cache.get(key)
        if entry is not None and self._clock() < entry.ask_after:
            return entry, None
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key, question, entry))
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return entry, flight

    async def answer(
        self, key: CacheKey, question: Question[T], *, wait: float, enough: Callable[[CacheEntry[T]], bool]
    ) -> CacheEntry[T] | None:
        """Return an entry: the cached one if it is *enough*, else what comes within *wait* seconds."""
        entry, flight = await self.entry(key, question)
        if flight is None or (entry is not None and enough(entry)):
            return entry
        try:
            # Shielded: the answer is for every caller, also those with more time than this one.
            return await asyncio.wait_for(asyncio.shield(flight), wait)
        except TimeoutError:
            return CacheEntry(entry.value if entry is not None else None, self._clock(), TIMEOUT)

    async def at_once(
        self, key: CacheKey, question: Question[T], seen: CacheEntry[T] | None = None
    ) -> CacheEntry[T]:
        """Ask the provider once, if its breaker lets; a failure keeps the last good value."""
        last = seen.value if seen else None
        closed = self.breaker.closed_until(key.provider)
        if closed is not None:
            return CacheEntry(last, closed, BREAKER_OPEN)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        fault, pause, told = NO_DATA, self._policy.pause, None
        try:
            async with asyncio.timeout(self._policy.budget.total_seconds()):
                found = await question.ask(last)
            if found is not None:
                self._noted(key, "", loop.time() - begun)
                return CacheEntry(found, question.ask_after(found))
        except ProviderError as error:
            fault, told = error.fault, error.retry_after
            pause = min(LONGEST_PAUSE, told or pause)
            _log.warning("provider %s failed for zone %s: %s", key.provider, key.zone, error)
        except TimeoutError:
            fault = TIMEOUT
            _log.warning("provider %s took too long for zone %s", key.provider, key.zone)
        except Exception:
            # A fault in an adapter must not hold up the work that waits for a decision.
            fault = UNEXPECTED
            _log.exception("provider %s broke on zone %s", key.provider, key.zone)
        self._noted(key, fault, loop.time() - begun, told)
        return CacheEntry(last, self._clock() + pause, fault)

    def _noted(self, key: CacheKey, fault: str, seconds: float, told: timedelta | None = None) -> None:
        self._observer.asked(key, fault.lower() or "ok", seconds)
        self.breaker.note(key.provider, fault, told)

    async def close(self) -> None:
        """Stop the questions that are under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, key: CacheKey, question: Question[T], seen: CacheEntry[T] | None) -> CacheEntry[T]:
        """Ask the provider unless another process does, and remember the answer."""
        lease = await self._cache.acquire(key, hold=self._policy.budget * 2)
        if lease is None:
            other: CacheEntry[T] | None = await self._answer_of_another(key, seen)
            if other is not None:
                return other
        try:
            entry = await self.at_once(key, question, seen)
            await self._cache.put(key, entry, keep=question.keep(entry))
            return entry
        finally:
            if lease is not None:
                await self._cache.release(key, lease)

    async def _answer_of_another(self, key: CacheKey, seen: CacheEntry[Any] | None) -> CacheEntry[Any] | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._policy.budget.total_seconds()
        while loop.time() < until:
            await asyncio.sleep(_POLL_S)
            entry = await self._cache.get(key)
            # A history that comes in chunks is asked for again at once: what counts is that this one is new.
            if entry is not None and (seen is None or entry.ask_after != seen.ask_after):
                return entry
        return None
