"""What happens to reservations by itself: signals whose time has come, and plans that follow new forecasts.

Any replica does it: a commit by revision gives each signal once, and looks are shared.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aegis_carbon.domain.reservations.errors import (
    ReservationBusy,
    UnknownReservation,
    UnreadableReservation,
)
from aegis_carbon.domain.reservations.keeper import Keeper
from aegis_carbon.domain.reservations.placing import Grid
from aegis_carbon.domain.reservations.reservation import WAITS
from aegis_carbon.domain.reservations.store import Counts, Ref, ReservationStore
from aegis_common.clock import Clock

_MOST: Final = 100
_UNREADABLE_PAUSE: Final = timedelta(minutes=10)
_LOOK_WITHIN_S: Final = 5.0
_log = logging.getLogger(__name__)


class Timer:
    """Gives the signals whose time has come.

    Args:
        store: Where reservations are kept.
        keeper: Changes them.
        clock: Present time.
    """

    def __init__(self, store: ReservationStore, keeper: Keeper, *, clock: Clock) -> None:
        self._store = store
        self._keeper = keeper
        self._clock = clock

    async def turn(self) -> datetime | None:
        """Do what is due, and return when something is due next; None where nothing is."""
        more = True
        while more:
            refs = await self._store.due(self._clock(), most=_MOST)
            done = [await self._step(ref) for ref in refs]
            # A moment is kept to the millisecond: what is due by that may not be due by the clock yet.
            more = any(done)
        await self._store.drop_expired(self._clock(), most=_MOST)
        return await self._store.next_due()

    async def _step(self, ref: Ref) -> bool:
        happened = False

        async def work() -> None:
            nonlocal happened
            happened = await self._keeper.due(ref)

        await _tolerant(self._store, ref, self._clock, work)
        return happened


class Replanner:
    """Follows new forecasts.

    Args:
        store: Where reservations are kept.
        grid: Knows what is expected of their zones.
        keeper: Changes them.
        clock: Present time.
        counted: Called with how many have not ended.
    """

    def __init__(
        self,
        store: ReservationStore,
        grid: Grid,
        keeper: Keeper,
        *,
        clock: Clock,
        counted: Callable[[Counts], None],
    ) -> None:
        self._store = store
        self._grid = grid
        self._keeper = keeper
        self._clock = clock
        self._counted = counted

    async def turn(self) -> None:
        """Look at what waits and was not looked at for a while."""
        self._counted(await self._store.counts())
        while refs := await self._store.take_looks(self._clock(), most=_MOST):
            for ref in refs:
                await _tolerant(self._store, ref, self._clock, partial(self._look, ref))

    async def _look(self, ref: Ref) -> None:
        item = await self._keeper.get(ref)
        if item.state in WAITS:
            outlooks = await self._grid.outlooks(item, now=self._clock(), within=_LOOK_WITHIN_S)
            # Where nothing is known any more, the plan that was made is still the best there is.
            if outlooks:
                await self._keeper.replan(ref, outlooks)


async def _tolerant(
    store: ReservationStore, ref: Ref, clock: Clock, work: Callable[[], Awaitable[object]]
) -> None:
    """Do some work on one reservation; what is wrong with it harms no other."""
    try:
        await work()
    except UnknownReservation:
        await store.forget(ref)
    except UnreadableReservation as error:
        _log.error("reservation %s/%s gets no signals: %s", *ref, error.message)
        await store.put_off(ref, clock() + _UNREADABLE_PAUSE)
    except ReservationBusy as error:
        _log.warning("%s", error.message)
