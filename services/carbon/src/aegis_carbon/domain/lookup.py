"""Finds the present intensity of a zone: fresh, stale or missing when it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.asking import NO_DATA, Asking, LookupPolicy, Question
from aegis_carbon.domain.catalog import Zone
from aegis_carbon.domain.errors import no_intensity_data
from aegis_carbon.domain.intensity import Intensity, Quality
from aegis_carbon.domain.providers import CacheEntry, CacheKey, IntensityProvider
from aegis_common.clock import Clock

WARM_FOR: Final = timedelta(hours=1)
"""A zone that nobody asked for in this time is not refreshed in the background."""
CLOCK_SKEW: Final = timedelta(minutes=2)
"""A slot that starts this soon counts as the present one: the provider's clock may run ahead of ours."""


class IntensityLookup:
    """Asks the providers of a zone in order of preference.

    A value older than `ttl` is used at once while its slot lasts, and refreshed behind the caller's back.
    """

    def __init__(
        self, providers: Iterable[IntensityProvider], asking: Asking, *, policy: LookupPolicy, clock: Clock
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._asking = asking
        self._policy = policy
        self._clock = clock
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
                await self._asking.entry(key, self._question(key))

    async def _ask(self, key: CacheKey, wait: float) -> tuple[Intensity | None, str]:
        """Return what is usable of *key*, and what stands against it."""
        question = self._question(key)
        if not self._providers[key.provider].capabilities.live:
            return self._usable(await self._asking.at_once(key, question))
        self._wanted[key] = self._clock()
        entry = await self._asking.answer(
            key, question, wait=wait, enough=lambda entry: _covers(entry, self._clock())
        )
        return self._usable(entry)

    def _question(self, key: CacheKey) -> Question[Intensity]:
        provider = self._providers[key.provider]

        async def ask(_: Intensity | None) -> Intensity | None:
            return await provider.current(key.zone)

        return Question(ask, self._ask_after, self._keep)

    def _ask_after(self, found: Intensity) -> datetime:
        now = self._clock()
        if found.covers(now):
            return min(now + self._policy.ttl, found.end)
        return now + self._policy.pause  # the present slot is not out yet

    def _usable(self, entry: CacheEntry[Intensity] | None) -> tuple[Intensity | None, str]:
        now = self._clock()
        if entry is None or entry.value is None:
            return None, entry.fault if entry else NO_DATA
        found = entry.value
        if now < found.end and found.start <= now + CLOCK_SKEW:
            return found, entry.fault
        if found.start > now or now - found.end > self._policy.max_stale:
            return None, entry.fault or NO_DATA
        if found.quality is Quality.SYNTHETIC:
            return found, entry.fault
        return replace(found, quality=Quality.STALE), entry.fault

    def _keep(self, entry: CacheEntry[Intensity]) -> timedelta:
        now = self._clock()
        end = entry.value.end if entry.value else now
        return max(timedelta(0), end - now, entry.ask_after - now) + self._policy.max_stale


def _covers(entry: CacheEntry[Intensity], moment: datetime) -> bool:
    return entry.value is not None and entry.value.covers(moment)
