"""Puts reservations together: their store, the planner, the timer, and the news between replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final

from aegis_carbon.adapters.reservation_news import News
from aegis_carbon.adapters.reservation_servicer import ReservationDoor
from aegis_carbon.adapters.reservation_store import RedisReservations
from aegis_carbon.adapters.reservation_watch import ReservationWatcher
from aegis_carbon.domain.reservations.errors import (
    ReservationsNotConfigured,
    ReservationStoreUnavailable,
)
from aegis_carbon.domain.reservations.placing import Placer
from aegis_carbon.domain.reservations.service import Reservations
from aegis_carbon.domain.reservations.timer import Timer
from aegis_carbon.settings import Settings
from aegis_carbon.wiring import Carbon
from aegis_common.background import ended
from aegis_common.clock import Clock
from aegis_common.durable_redis import DurableRedis, connect
from aegis_common.errors import ConfigurationError

_LOOK_S: Final = 1.0
"""Longest pause of the timer: news that were lost, and a clock that was set, cost no more."""
_LEAST_S: Final = 0.02

_log = logging.getLogger(__name__)


@asynccontextmanager
async def reservations_of(built: Carbon, settings: Settings) -> AsyncIterator[ReservationDoor | None]:
    """Open the reservations and give their signals in the background; None where no store is set.

    Raises:
        ConfigurationError: `REDIS_URL` is no URL of a Redis.
    """
    url = settings.redis_url.get_secret_value()
    if not url:
        _log.warning("REDIS_URL is not set: there are no reservations")
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            client = connect(url)
        except ValueError as error:
            raise ConfigurationError(f"REDIS_URL cannot be used: {error}") from None
        stack.push_async_callback(client.aclose)
        redis = DurableRedis(
            client,
            unavailable=ReservationStoreUnavailable.because,
            kept="reservations",
            advice="AEGIS_CARBON_STORE_CHECK=warn",
        )
        store = RedisReservations(
            redis,
            strict=settings.store_check == "strict",
            most_open=settings.max_reservations,
            look_every=settings.replan_every,
        )
        keep = settings.reservation_retention
        reservations = Reservations(
            store,
            built.planning,
            Placer(built.planning),
            keep=keep,
            most_open=settings.max_reservations,
            clock=built.clock,
        )
        news = await stack.enter_async_context(News(client))
        timer = Timer(store, keep=keep, clock=built.clock)
        await stack.enter_async_context(_ticking(timer, news, clock=built.clock))
        yield ReservationDoor(reservations=reservations, watcher=ReservationWatcher(reservations, news))


@asynccontextmanager
async def _ticking(timer: Timer, news: News, *, clock: Clock) -> AsyncIterator[None]:
    task = asyncio.create_task(_tick(timer, news, clock), name="reservation timer")
    try:
        yield
    finally:
        await ended(task)


async def _tick(timer: Timer, news: News, clock: Clock) -> None:
    """Do what is due, for ever; a store that is away or unfit is told once, until it is there again."""
    told = ""
    while True:
        pause = _LOOK_S
        try:
            upcoming = await timer.turn()
            told = ""
            if upcoming is not None:
                pause = min(_LOOK_S, max(_LEAST_S, (upcoming - clock()) / timedelta(seconds=1)))
        except (ReservationStoreUnavailable, ReservationsNotConfigured) as error:
            if error.reason != told:
                _log.warning("no signals are given: %s", error.message)
            told = error.reason
        except Exception:
            _log.exception("the reservation timer failed")
        await asyncio.sleep(_LEAST_S)
        await news.anything(at_most_s=pause)
