"""A small world of reservations for tests: replicas over a real Redis, holders, and one true time.

Events happen at their exact moments, so that hours pass in milliseconds. The service may be dead for a while,
its clock may be wrong; holders have a clock that is right, and keep what they could not report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from opentelemetry.metrics import Meter, get_meter

from aegis_carbon.adapters.reservation_metrics import ReservationCounters
from aegis_carbon.adapters.reservation_store import RedisReservations
from aegis_carbon.domain.job import Interruption, Job
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.errors import (
    ReservationEnded,
    ReservationStoreUnavailable,
    StaleToken,
)
from aegis_carbon.domain.reservations.keeper import Keeper
from aegis_carbon.domain.reservations.reservation import (
    NO_TIME,
    Event,
    Kind,
    OnMissing,
    Reservation,
    margin_of,
)
from aegis_carbon.domain.reservations.store import Outcome, Ref
from aegis_carbon.domain.reservations.timer import Timer
from aegis_carbon.testing.clock import NOW, ManualClock
from aegis_carbon.testing.series import series
from aegis_common.durable_redis import DurableRedis, connect
from aegis_common.reservation_holder import Effect, ReservationHolder, Signal

TENANT: Final = "red"
CAPACITY: Final = 2
POOL: Final = "gpus"
KEEP: Final = timedelta(days=30)
_SLOTS: Final = 1000
_EVENTS: Final = {
    Effect.START: Event.STARTED,
    Effect.SUSPEND: Event.SUSPENDED,
    Effect.RESUME: Event.RESUMED,
}
_SIGNALS: Final = {
    Kind.START: Signal.START,
    Kind.SUSPEND: Signal.SUSPEND,
    Kind.RESUME: Signal.RESUME,
    Kind.DEADLINE: Signal.DEADLINE,
}


def expected(seed: int, *, start: datetime = NOW - timedelta(days=1)) -> Outlook:
    """Return half-hourly intensities of zone DE for three weeks, another row for each *seed*."""
    values = np.random.default_rng(seed).uniform(50, 500, _SLOTS)
    row = series(values, start=start)
    return Outlook(
        series=row, low=values, high=values, errors=np.zeros((0, _SLOTS)), parts=(), mark=str(seed)
    )


@dataclass
class Work:
    """What the holder of one reservation does.

    Attributes:
        deadline: When it has to have ended.
        length: How long it runs.
        overhead: What a resume costs.
        starts: How often it was started.
        ended: When it ended.
    """

    ref: Ref
    deadline: datetime
    length: timedelta
    overhead: timedelta
    pool: str
    rules: ReservationHolder
    starts: int = 0
    done: timedelta = NO_TIME
    since: datetime | None = None
    ended: datetime | None = None
    gone: bool = False
    outbox: list[tuple[Event, int, datetime, timedelta]] = field(default_factory=list)

    def worked(self, now: datetime) -> timedelta:
        """Return the work that is done at a moment."""
        return self.done if self.since is None else self.done + max(NO_TIME, now - self.since)

    @property
    def end(self) -> datetime | None:
        """When it ends if it runs on."""
        return None if self.since is None else self.since + self.length - self.done

    def act(self, now: datetime) -> bool:
        """Do what the rules of holders say; return whether that was anything."""
        if self.ended or self.gone:
            return False
        if self.end is not None and now >= self.end:
            self.ended, self.since = self.end, None
            self.outbox.append((Event.FINISHED, self.rules.token, now, self.length))
            return True
        order = self.rules.order(now, (now - NOW).total_seconds(), worked=self.worked(now))
        if order.effect is None:
            return False
        worked = self.worked(now)
        if order.effect is Effect.SUSPEND:
            self.done, self.since = worked, None
        else:
            self.starts += order.effect is Effect.START
            self.since = now + (NO_TIME if order.effect is Effect.START else self.overhead)
        self.outbox.append((_EVENTS[order.effect], order.token, now, worked))
        return True

    def upcoming(self, now: datetime) -> datetime | None:
        """Return when it does something by itself."""
        if self.ended or self.gone:
            return None
        return self.end if self.since else self.rules.latest_start(self.worked(now))


class World:
    """Two replicas, and the holders of what was reserved; use one event loop.

    Args:
        url: Of a Redis that keeps its writes.
        meter: Where counts go.
    """

    def __init__(self, url: str, *, meter: Meter | None = None) -> None:
        self.client = connect(url)
        self.true = ManualClock()
        self.skew = NO_TIME
        self.works: dict[str, Work] = {}
        self.most_running = 0
        redis = DurableRedis(
            self.client, unavailable=ReservationStoreUnavailable.because, kept="reservations", advice=""
        )
        self.store = RedisReservations(redis, strict=True, most_open=1000, look_every=timedelta(seconds=30))
        self.counters = ReservationCounters(meter or get_meter("test"))
        self.keepers = [
            Keeper(self.store, {POOL: CAPACITY}, keep=KEEP, clock=self.clock, observer=self.counters)
            for _ in range(2)
        ]
        self.timers = [Timer(self.store, keeper, clock=self.clock) for keeper in self.keepers]

    async def emptied(self) -> None:
        """Delete what the store holds."""
        await self.client.flushall()

    def clock(self) -> datetime:
        """Return what the service takes for the present time."""
        return self.true.now + self.skew

    async def reserve(
        self,
        length: timedelta,
        within: timedelta,
        *,
        interruption: Interruption | None = None,
        pool: str = "",
        outlook: Outlook | None = None,
        on_missing: OnMissing = OnMissing.RUN_NOW,
    ) -> Work:
        """Reserve *length* that ends *within* some time from now; raises what `Keeper.admit` does."""
        now, deadline = self.clock(), self.true.now + within
        job = Job(earliest=now, deadline=deadline, duration=length, interruption=interruption)
        job.check()
        item = Reservation(
            tenant=TENANT,
            id=f"r{len(self.works):04}",
            zones=("DE",),
            duration=length,
            earliest=now,
            deadline=deadline,
            created=now,
            margin=margin_of(job),
            interruption=interruption,
            pool=pool,
            on_missing=on_missing,
        )
        outcome, made = await self.keepers[0].admit(item, [outlook] if outlook else [], digest="")
        if outcome is not Outcome.DONE:
            raise AssertionError(outcome)
        work = Work(
            ref=Ref(TENANT, made.id),
            deadline=deadline,
            length=length,
            overhead=interruption.resume_overhead if interruption else NO_TIME,
            pool=pool,
            rules=ReservationHolder(
                deadline, length, start_token=made.start_token, interruptible=interruption is not None
            ),
        )
        self.works[made.id] = work
        work.rules.answered(made.token, made.latest_start)
        return work

    async def replan(self, outlook: Outlook) -> None:
        """Let a new forecast be looked at for all that waits."""
        for work in self.works.values():
            await self.keepers[1].replan(work.ref, [outlook])

    async def cancel(self, work: Work) -> None:
        """Give one back, and stop its work."""
        await self.keepers[1].change(work.ref, lambda item, now: machine.cancelled(item, now=now, keep=KEEP))
        work.gone, work.since = True, None

    async def wait(self, span: timedelta, *, alive: bool = True) -> None:
        """Let time pass, with everything that happens in it at its moment."""
        until = self.true.now + span
        while True:
            await self._settle(alive=alive)
            moments = [until]
            moments += [m for w in self.works.values() if (m := w.upcoming(self.true.now))]
            if alive and (due := await self.store.next_due()) is not None:
                # Kept to the millisecond: looked at again when it has passed for certain.
                moments.append(due - self.skew + timedelta(milliseconds=1))
            upcoming = min(moment for moment in moments if moment > self.true.now or moment == until)
            if self.true.now >= until:
                return
            self.true.now = min(upcoming, until)

    async def _settle(self, *, alive: bool) -> None:
        acts = True
        while acts:
            if alive:
                await asyncio.gather(*(timer.turn() for timer in self.timers))
                await self._tell()
            acts = sum(work.act(self.true.now) for work in self.works.values()) > 0
            if alive:
                await self._hear()
        running = sum(bool(w.pool and w.since is not None) for w in self.works.values())
        self.most_running = max(self.most_running, running)

    async def _tell(self) -> None:
        for work in self.works.values():
            item = await self.keepers[0].get(work.ref)
            if item.signal is not None and item.open:
                work.rules.told(item.token, _SIGNALS[item.signal.kind], item.signal.latest_start)
            if item.open:
                work.rules.answered(item.token, item.latest_start if work.since is None else None)

    async def _hear(self) -> None:
        for work in self.works.values():
            while work.outbox:
                event, token, at, done = work.outbox.pop(0)
                # Its end may have been assumed, or the service given it back.
                with suppress(ReservationEnded, StaleToken):
                    await self.keepers[0].change(work.ref, _said(event, token, at, done))


def _said(
    event: Event, token: int, at: datetime, done: timedelta
) -> Callable[[Reservation, datetime], Reservation | None]:
    def change(item: Reservation, now: datetime) -> Reservation | None:
        told: dict[str, Any] = {"holder": "h", "at": at, "work_done": done, "now": now, "keep": KEEP}
        return machine.reported(item, event, token=token, **told)

    return change
