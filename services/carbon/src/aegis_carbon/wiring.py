"""Puts providers, cache and domain together: for the service and for `CarbonScheduler`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast

from opentelemetry.metrics import Meter, get_meter

from aegis_carbon.adapters.memory_cache import MemoryCache
from aegis_carbon.adapters.metrics import Counters
from aegis_carbon.adapters.place_table import packaged_table
from aegis_carbon.adapters.redis_cache import RedisCache, connect
from aegis_carbon.domain.advisor import CarbonAdvisor
from aegis_carbon.domain.asking import Asking, LookupPolicy
from aegis_carbon.domain.catalog import ZoneCatalog
from aegis_carbon.domain.lookup import IntensityLookup
from aegis_carbon.domain.outlooks import OutlookLookup
from aegis_carbon.domain.planning import Planning
from aegis_carbon.domain.providers import IntensityCache, IntensityProvider, ZoneFinder
from aegis_carbon.domain.resolving import ZoneResolver
from aegis_carbon.domain.scores import ForecastScores
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.sources import Workshop, make_providers
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError

DEMO_ZONE: Final = "demo-day"


@dataclass(frozen=True, slots=True)
class Carbon:
    """The carbon service without its transport."""

    advisor: CarbonAdvisor
    planning: Planning
    catalog: ZoneCatalog
    lookup: IntensityLookup
    outlooks: OutlookLookup
    resolver: ZoneResolver
    clock: Clock


@asynccontextmanager
async def carbon(
    settings: IntensitySettings, *, clock: Clock = utc_now, meter: Meter | None = None
) -> AsyncIterator[Carbon]:
    """Build everything from *settings*; close connections on the way out.

    Args:
        settings: Where intensities come from.
        clock: Present time.
        meter: Where counts go; if omitted, OpenTelemetry's global meter.

    Raises:
        ConfigurationError: A setting does not fit: an unknown zone, a broken series file, a misplaced key.
    """
    counters = Counters(meter or get_meter("aegis_carbon"))
    async with AsyncExitStack() as stack:
        providers = make_providers(Workshop(settings, clock, stack))
        catalog = ZoneCatalog(
            providers,
            default_zone=settings.default_zone or _default_zone(settings, providers),
            threshold=settings.intensity_threshold,
            zone_thresholds=settings.zone_thresholds,
        )
        cache = await _cache(settings, clock, counters, stack)
        policy = LookupPolicy(
            settings.cache_ttl, settings.max_stale, settings.failure_pause, settings.provider_budget
        )
        asking = Asking(cache, policy=policy, clock=clock, observer=counters)
        stack.push_async_callback(asking.close)
        lookup = IntensityLookup(providers, asking, policy=policy, clock=clock)
        scores = ForecastScores()
        counters.observe(asking.breaker, scores)
        outlooks = OutlookLookup(providers, asking, policy=policy, clock=clock, scores=scores)
        planning = Planning(catalog, outlooks, clock=clock)
        advisor = CarbonAdvisor(catalog, lookup, outlooks, planning, clock=clock, observer=counters)
        finders = [cast("ZoneFinder", provider) for provider in providers if provider.capabilities.finds]
        resolver = ZoneResolver(catalog, packaged_table(), finders, asking, clock=clock)
        yield Carbon(advisor, planning, catalog, lookup, outlooks, resolver, clock)


async def _cache(
    settings: IntensitySettings, clock: Clock, counters: Counters, stack: AsyncExitStack
) -> IntensityCache:
    url = settings.cache_url
    if not url:
        return MemoryCache(clock)
    try:
        client = connect(url)
    except ValueError as error:
        raise ConfigurationError(f"{_cache_variable(settings)} cannot be used: {error}") from None
    stack.push_async_callback(client.aclose)
    return RedisCache(client, clock=clock, on_fault=counters.cache_fault)


def _cache_variable(settings: IntensitySettings) -> str:
    return "AEGIS_CACHE_REDIS_URL" if settings.cache_redis_url else "REDIS_URL"


def _default_zone(settings: IntensitySettings, providers: Sequence[IntensityProvider]) -> str:
    """Return the first zone of the first provider that somebody set up, else one of the replay."""
    names = [provider.name for provider in providers]
    for provider in providers:
        # Without a setting of its own, `uk` and `replay` are there as defaults.
        by_default = provider.name == "replay" or (provider.name == "uk" and "replay" in names)
        if provider.zones and (not by_default or (provider.name == "uk" and settings.api_url)):
            return provider.zones[0].id
    replayed = [zone.id for zone in providers[names.index("replay")].zones] if "replay" in names else []
    if not replayed:
        raise ConfigurationError("no provider has a zone", providers=",".join(names))
    return DEMO_ZONE if DEMO_ZONE in replayed else replayed[0]
