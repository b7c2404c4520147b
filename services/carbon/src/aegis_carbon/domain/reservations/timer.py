"""Gives the signals whose time has come. Any replica does: a commit by revision gives each of them once."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.errors import UnreadableReservation
from aegis_carbon.domain.reservations.store import Outcome, Ref, ReservationStore
from aegis_common.clock import Clock

_MOST: Final = 100
_UNREADABLE_PAUSE: Final = timedelta(minutes=10)
_log = logging.getLogger(__name__)


class Timer:
    """Looks for what is due.

    Args:
        store: Where reservations are kept.
        keep: How long an ended one is kept.
        clock: Present time.
    """

    def __init__(self, store: ReservationStore, *, keep: timedelta, clock: Clock) -> None:
        self._store = store
        self._keep = keep
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
        now = self._clock()
        try:
            item = await self._store.get(ref)
        except UnreadableReservation as error:
            _log.error("reservation %s/%s gets no signals: %s", *ref, error.message)
            await self._store.put_off(ref, now + _UNREADABLE_PAUSE)
            return True
        if item is None:
            await self._store.forget(ref)
            return True
        after = machine.due(item, now=now, keep=self._keep)
        if after is None:
            return False
        after = replace(after, revision=item.revision + 1)
        # Overtaken: another replica gave this signal, or the holder has said something.
        return await self._store.commit([after], now=now) in (Outcome.DONE, Outcome.OVERTAKEN)
