"""Puts providers, cache and domain together: for the service and for `CarbonScheduler`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx
from opentelemetry.metrics import Meter, get_meter

from aegis_carbon.adapters.memory_cache import MemoryCache
from aegis_carbon.adapters.metrics import Counters
from aegis_carbon.adapters.redis_cache import RedisCache, connect
from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.retrying import RetryingProvider
from aegis_carbon.adapters.series import read_series
from aegis_carbon.adapters.uk import NATIONAL, UkProvider
from aegis_carbon.domain.advisor import CarbonAdvisor
from aegis_carbon.domain.asking import Asking, LookupPolicy
from aegis_carbon.domain.catalog import ZoneCatalog
from aegis_carbon.domain.lookup import IntensityLookup
from aegis_carbon.domain.outlooks import OutlookLookup
from aegis_carbon.domain.providers import IntensityCache, IntensityProvider
from aegis_carbon.settings import IntensitySettings
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError

DEMO_ZONE: Final = "demo-day"
USER_AGENT: Final = "aegis-carbon"
_MOST_CONNECTIONS: Final = 8
_CONNECT_TIMEOUT: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Carbon:
    """The carbon service without its transport."""

    advisor: CarbonAdvisor
    catalog: ZoneCatalog
    lookup: IntensityLookup
    outlooks: OutlookLookup
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
        providers = [await _provider(name, settings, clock, stack) for name in settings.providers]
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
        outlooks = OutlookLookup(providers, asking, policy=policy, clock=clock)
        advisor = CarbonAdvisor(catalog, lookup, outlooks, clock=clock, observer=counters)
        yield Carbon(advisor, catalog, lookup, outlooks, clock)


async def _provider(
    name: str, settings: IntensitySettings, clock: Clock, stack: AsyncExitStack
) -> IntensityProvider:
    if name == "replay":
        return ReplayProvider(read_series(settings.replay_file or PACKAGED), clock=clock)
    client = await stack.enter_async_context(_http_client(settings))
    uk = UkProvider(client, clock=clock, timeout=settings.request_timeout)
    return RetryingProvider(uk, budget=settings.provider_budget)


def _http_client(settings: IntensitySettings) -> httpx.AsyncClient:
    # No redirects: they could carry the key, or a request, out of the egress allow-list.
    headers = {"user-agent": USER_AGENT, "accept": "application/json"}
    key = settings.key()
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        return httpx.AsyncClient(
            base_url=settings.uk_api,
            headers=headers,
            timeout=httpx.Timeout(
                settings.request_timeout.total_seconds(), connect=_CONNECT_TIMEOUT.total_seconds()
            ),
            limits=httpx.Limits(max_connections=_MOST_CONNECTIONS),
            follow_redirects=False,
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(f"CARBON_API_URL or CARBON_API_KEY cannot be used: {error}") from None


async def _cache(
    settings: IntensitySettings, clock: Clock, counters: Counters, stack: AsyncExitStack
) -> IntensityCache:
    url = settings.cache_redis_url.get_secret_value()
    if not url:
        return MemoryCache(clock)
    try:
        client = connect(url)
    except ValueError as error:
        raise ConfigurationError(f"AEGIS_CACHE_REDIS_URL cannot be used: {error}") from None
    stack.push_async_callback(client.aclose)
    return RedisCache(client, clock=clock, on_fault=counters.cache_fault)


def _default_zone(settings: IntensitySettings, providers: Sequence[IntensityProvider]) -> str:
    by_name = {provider.name: [zone.id for zone in provider.zones] for provider in providers}
    replayed = by_name.get("replay", [])
    if "uk" in by_name and (settings.api_url or not replayed):
        return NATIONAL
    return DEMO_ZONE if DEMO_ZONE in replayed else replayed[0]
