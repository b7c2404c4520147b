"""Puts the ledger together: its store, the power model, and the lookups that decisions use too."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from opentelemetry.metrics import Meter

from aegis_carbon.adapters.ledger_store import Bounds, RedisLedger
from aegis_carbon.adapters.metrics import LedgerCounters
from aegis_carbon.domain.ledger.errors import LedgerNotConfigured, LedgerUnavailable
from aegis_carbon.domain.ledger.ledger import Ledger
from aegis_carbon.domain.ledger.sources import EvidenceSource
from aegis_carbon.domain.ledger.store import LedgerStore
from aegis_carbon.domain.ledger.usage import Estimate, PowerModel
from aegis_carbon.settings import PowerSettings, Settings
from aegis_carbon.wiring import Carbon
from aegis_common.background import Every
from aegis_common.durable_redis import DurableRedis, connect
from aegis_common.errors import ConfigurationError

PUE: Final = Estimate(1.2, 1.0, 1.6)
WATTS_PER_CORE: Final = Estimate(4.0, 1.0, 12.0)
WATTS_PER_GIB: Final = Estimate(0.38, 0.1, 0.8)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """The ledger, and the store that reports read."""

    ledger: Ledger
    store: LedgerStore


@asynccontextmanager
async def ledger_of(built: Carbon, settings: Settings, *, meter: Meter) -> AsyncIterator[OpenLedger | None]:
    """Open the ledger, and state its entries anew in the background; None where no store is set.

    Raises:
        ConfigurationError: `REDIS_URL` is no URL of a Redis.
    """
    url = settings.redis_url.get_secret_value()
    if not url:
        _log.warning("REDIS_URL is not set: there is no ledger")
        yield None
        return
    try:
        client = connect(url)
    except ValueError as error:
        raise ConfigurationError(f"REDIS_URL cannot be used: {error}") from None
    redis = DurableRedis(
        client,
        unavailable=LedgerUnavailable.because,
        kept="the ledger",
        advice="AEGIS_CARBON_STORE_CHECK=warn",
    )
    store = RedisLedger(
        redis,
        strict=settings.store_check == "strict",
        bounds=Bounds(entries=settings.max_ledger_entries),
    )
    ledger = Ledger(
        store,
        EvidenceSource(built.lookup, built.outlooks),
        built.catalog,
        power=power_model(settings.power),
        keep=settings.ledger_retention,
        clock=built.clock,
        observer=LedgerCounters(meter),
    )
    try:
        async with Every(settings.restate_every, _Restating(ledger).once, name="ledger"):
            yield OpenLedger(ledger, store)
    finally:
        await client.aclose()


class _Restating:
    """States due entries anew; a store that is away or unfit is told once, until it is there again."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told = ""

    async def once(self) -> None:
        try:
            await self._ledger.restate()
            self._told = ""
        except (LedgerNotConfigured, LedgerUnavailable) as error:
            if error.reason != self._told:
                _log.warning("the ledger is not kept: %s", error.message)
            self._told = error.reason


def power_model(settings: PowerSettings) -> PowerModel:
    """Return the model that *settings* describe; what they leave out has a wide interval."""
    core, memory = WATTS_PER_CORE, WATTS_PER_GIB
    if settings.cpu_tdp_w is not None and settings.cpu_threads is not None:
        watts = settings.cpu_tdp_w / settings.cpu_threads
        core = Estimate(watts, 0.5 * watts, 1.3 * watts)
    if settings.watts_per_gib is not None:
        memory = Estimate.within(settings.watts_per_gib, 0.5)
    return PowerModel(
        pue=PUE if settings.pue is None else Estimate(settings.pue, settings.pue, settings.pue),
        watts_per_core=core,
        watts_per_gib=memory,
        embodied_g=None if settings.embodied_kg is None else settings.embodied_kg * 1000,
        lifespan=settings.lifespan,
        cores=settings.cores or 1,
    )
