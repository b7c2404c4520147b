"""Puts reservations together: their store, the planner, the timer, and the news between replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final, TypeVar

from opentelemetry.metrics import Meter

from aegis_carbon.adapters.reservation_metrics import ReservationCounters
from aegis_carbon.adapters.reservation_news import News
from aegis_carbon.adapters.reservation_servicer import ReservationDoor
from aegis_carbon.adapters.reservation_store import RedisReservations
from aegis_carbon.adapters.reservation_watch import ReservationWatcher
from aegis_carbon.domain.reservations.errors import (
    ReservationsNotConfigured,
    ReservationStoreUnavailable,
)
from aegis_carbon.domain.reservations.keeper import Keeper
from aegis_carbon.domain.reservations.placing import Grid
from aegis_carbon.domain.reservations.service import Reservations
from aegis_carbon.domain.reservations.timer import Replanner, Timer
from aegis_carbon.settings import Settings
from aegis_carbon.wiring import Carbon
from aegis_common.background import Every, ended
from aegis_common.clock import Clock
from aegis_common.durable_redis import DurableRedis, connect
from aegis_common.errors import ConfigurationError

_LOOK_S: Final = 1.0
"""Longest pause of the timer: news that were lost, and a clock that was set, cost no more."""
_LEAST_S: Final = 0.02
_SLOTS: Final = 48
"""Looks for a new forecast in a day, at least; matters in a replay that runs fast."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@asynccontextmanager
async def reservations_of(
    built: Carbon, settings: Settings, *, meter: Meter
) -> AsyncIterator[ReservationDoor | None]:
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
        every = _look_every(built, settings)
        store = RedisReservations(
            redis,
            strict=settings.store_check == "strict",
            most_open=settings.max_reservations,
            look_every=every,
        )
        keep, clock, pools = settings.reservation_retention, built.clock, settings.capacity_pools
        counters = ReservationCounters(meter)
        keeper = Keeper(store, pools, keep=keep, clock=clock, observer=counters)
        grid = Grid(built.planning)
        reservations = Reservations(
            store,
            built.planning,
            grid,
            keeper,
            pools=pools,
            keep=keep,
            most_open=settings.max_reservations,
            clock=clock,
        )
        news = await stack.enter_async_context(News(client))
        timer = Timer(store, keeper, clock=clock)
        await stack.enter_async_context(_ticking(timer, news, clock=clock))
        replanner = Replanner(store, grid, keeper, clock=clock, counted=counters.counted)
        looks = _Patient("plans do not follow new forecasts")
        await stack.enter_async_context(Every(every, lambda: looks(replanner.turn), name="reservation plans"))
        yield ReservationDoor(reservations=reservations, watcher=ReservationWatcher(reservations, news))


def _look_every(built: Carbon, settings: Settings) -> timedelta:
    """Return how often plans are looked at: at least each half hour of a replay that runs fast."""
    days = (built.outlooks.day(zone) for zone in built.catalog.all())
    return min(settings.replan_every, *(day / _SLOTS for day in days))


@asynccontextmanager
async def _ticking(timer: Timer, news: News, *, clock: Clock) -> AsyncIterator[None]:
    task = asyncio.create_task(_tick(timer, news, clock), name="reservation timer")
    try:
        yield
    finally:
        await ended(task)


async def _tick(timer: Timer, news: News, clock: Clock) -> None:
    """Do what is due, for ever."""
    patient = _Patient("no signals are given")
    while True:
        pause, upcoming = _LOOK_S, None
        try:
            upcoming = await patient(timer.turn)
        except Exception:
            _log.exception("the reservation timer failed")
        if upcoming is not None:
            pause = min(_LOOK_S, max(_LEAST_S, (upcoming - clock()) / timedelta(seconds=1)))
        await asyncio.sleep(_LEAST_S)
        await news.anything(at_most_s=pause)


class _Patient:
    """Bears a store that is away or unfit; says so once, until it is there again."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._told = ""

    async def __call__(self, work: Callable[[], Awaitable[T]]) -> T | None:
        try:
            found = await work()
        except (ReservationStoreUnavailable, ReservationsNotConfigured) as error:
            if error.reason != self._told:
                _log.warning("%s: %s", self._consequence, error.message)
            self._told = error.reason
            return None
        self._told = ""
        return found
