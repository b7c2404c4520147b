"""Finds the present intensity of a zone: cached, shared between callers, stale or missing when it must be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.catalog import Zone
from aegis_carbon.domain.errors import no_intensity_data
from aegis_carbon.domain.intensity import Intensity, Quality
from aegis_carbon.domain.providers import (
    CacheEntry,
    CacheKey,
    IntensityCache,
    IntensityProvider,
    Observer,
    ProviderError,
)
from aegis_common.clock import Clock

NO_DATA: Final = "NO_DATA"
TIMEOUT: Final = "TIMEOUT"
UNEXPECTED: Final = "UNEXPECTED"
LONGEST_PAUSE: Final = timedelta(hours=1)
"""A provider is asked again after this time at the latest, whatever its Retry-After said."""
WARM_FOR: Final = timedelta(hours=1)
"""A zone that nobody asked for in this time is not refreshed in the background."""
CLOCK_SKEW: Final = timedelta(minutes=2)
"""A slot that starts this soon counts as the present one: the provider's clock may run ahead of ours."""
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


class IntensityLookup:
    """Asks the providers of a zone in order of preference.

    A live provider is asked once for all callers (in this process by a shared task, between processes by a
    lease in the cache). A value older than `ttl` is used at once while its slot lasts, and refreshed behind
    the caller's back. A provider that failed is left alone for a while.
    """

    def __init__(
        self,
        providers: Iterable[IntensityProvider],
        cache: IntensityCache,
        *,
        policy: LookupPolicy,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._cache = cache
        self._policy = policy
        self._clock = clock
        self._observer = observer
        self._flights: dict[CacheKey, asyncio.Task[CacheEntry]] = {}
        self._wanted: dict[CacheKey, datetime] = {}

    async def current(self, zone: Zone, *, within: float) -> Intensity:
        """Return the best value that there is of *zone* now.

        A fresh value of a live provider wins over a stale one, and a stale one over a profile that stands
        later in the zone's order of preference.

        Args:
            zone: From the catalogue.
            within: Seconds that the caller can wait; shared out among the providers.

        Raises:
            NoIntensityData: No provider has a value, and none is young enough to be used.
        """
        loop = asyncio.get_running_loop()
        deadline, stale, faults = loop.time() + within, None, dict[str, str]()
        for index, name in enumerate(zone.providers):
            if stale is not None and not self._providers[name].capabilities.live:
                break
            wait = max(0.0, deadline - loop.time()) / (len(zone.providers) - index)
            found, faults[name] = await self._ask(CacheKey(name, zone.id), wait)
            if found is not None and found.quality is not Quality.STALE:
                return found
            stale = stale or found
        if stale is None:
            raise no_intensity_data(zone.id, faults, retry_after=self._policy.pause)
        return stale

    async def keep_warm(self, *, every: timedelta) -> None:
        """Refresh, until cancelled, the zones that were asked for of late, so that callers need not wait."""
        while True:
            await asyncio.sleep(every.total_seconds())
            oldest = self._clock() - WARM_FOR
            self._wanted = {key: at for key, at in self._wanted.items() if at > oldest}
            for key in list(self._wanted):
                await self._entry(key)

    async def close(self) -> None:
        """Stop the questions that are under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _ask(self, key: CacheKey, wait: float) -> tuple[Intensity | None, str]:
        """Return what is usable of *key*, and what stands against it."""
        if not self._providers[key.provider].capabilities.live:
            return self._usable(await self._question(key, None))
        self._wanted[key] = self._clock()
        entry, flight = await self._entry(key)
        if flight is not None and not _covers(entry, self._clock()):
            try:
                # Shielded: the answer is for every caller, also those with more time than this one.
                entry = await asyncio.wait_for(asyncio.shield(flight), wait)
            except TimeoutError:
                entry = CacheEntry(entry.intensity if entry is not None else None, self._clock(), TIMEOUT)
        return self._usable(entry)

    async def _entry(self, key: CacheKey) -> tuple[CacheEntry | None, asyncio.Task[CacheEntry] | None]:
        """Return what the cache has, and the running question when it is time for one."""
        entry = await self._cache.get(key)
        if entry is not None and self._clock() < entry.ask_after:
            return entry, None
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key, entry))
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return entry, flight

    async def _fly(self, key: CacheKey, seen: CacheEntry | None) -> CacheEntry:
        """Ask the provider unless another process does, and remember the answer."""
        lease = await self._cache.acquire(key, hold=self._policy.budget * 2)
        if lease is None:
            other = await self._answer_of_another(key)
            if other is not None:
                return other
        try:
            entry = await self._question(key, seen)
            await self._cache.put(key, entry, keep=self._keep(entry))
            return entry
        finally:
            if lease is not None:
                await self._cache.release(key, lease)

    async def _answer_of_another(self, key: CacheKey) -> CacheEntry | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._policy.budget.total_seconds()
        while loop.time() < until:
            await asyncio.sleep(_POLL_S)
            entry = await self._cache.get(key)
            if entry is not None and self._clock() < entry.ask_after:
                return entry
        return None

    async def _question(self, key: CacheKey, seen: CacheEntry | None) -> CacheEntry:
        """Ask the provider once; a failure keeps the last good value."""
        provider, last = self._providers[key.provider], seen.intensity if seen else None
        fault, pause = "", self._policy.pause
        try:
            async with asyncio.timeout(self._policy.budget.total_seconds()):
                found = await provider.current(key.zone)
            if found is not None:
                self._observer.asked(key, "ok")
                return self._fresh(found)
            fault = NO_DATA
        except ProviderError as error:
            fault, pause = error.fault, min(LONGEST_PAUSE, error.retry_after or pause)
            _log.warning("provider %s failed for zone %s: %s", key.provider, key.zone, error)
        except TimeoutError:
            fault = TIMEOUT
            _log.warning("provider %s took too long for zone %s", key.provider, key.zone)
        except Exception:
            # A fault in an adapter must not hold up the work that waits for a decision.
            fault = UNEXPECTED
            _log.exception("provider %s broke on zone %s", key.provider, key.zone)
        self._observer.asked(key, fault.lower())
        return CacheEntry(last, self._clock() + pause, fault)

    def _fresh(self, found: Intensity) -> CacheEntry:
        now = self._clock()
        if found.covers(now):
            return CacheEntry(found, min(now + self._policy.ttl, found.end))
        return CacheEntry(found, now + self._policy.pause)  # the present slot is not out yet

    def _usable(self, entry: CacheEntry | None) -> tuple[Intensity | None, str]:
        now = self._clock()
        if entry is None or entry.intensity is None:
            return None, entry.fault if entry else NO_DATA
        found = entry.intensity
        if now < found.end and found.start <= now + CLOCK_SKEW:
            return found, entry.fault
        if found.start > now or now - found.end > self._policy.max_stale:
            return None, entry.fault or NO_DATA
        if found.quality is Quality.SYNTHETIC:
            return found, entry.fault
        return replace(found, quality=Quality.STALE), entry.fault

    def _keep(self, entry: CacheEntry) -> timedelta:
        now = self._clock()
        end = entry.intensity.end if entry.intensity else now
        return max(timedelta(0), end - now, entry.ask_after - now) + self._policy.max_stale


def _covers(entry: CacheEntry | None, moment: datetime) -> bool:
    return entry is not None and entry.intensity is not None and entry.intensity.covers(moment)
