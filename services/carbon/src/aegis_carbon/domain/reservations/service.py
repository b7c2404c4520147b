"""What callers do with reservations."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.errors import MOST_NEAR_MATCHES
from aegis_carbon.domain.planning import JobRequest, Planning
from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.errors import (
    RequestIdReused,
    TooManyReservations,
    UnknownCapacityPool,
)
from aegis_carbon.domain.reservations.keeper import Keeper, busy
from aegis_carbon.domain.reservations.placing import Grid
from aegis_carbon.domain.reservations.reservation import (
    NO_TIME,
    Event,
    OnMissing,
    Reservation,
    State,
    margin_of,
)
from aegis_carbon.domain.reservations.store import Outcome, Ref, ReservationStore
from aegis_common.clock import Clock
from aegis_common.errors import InvalidArgument

_BATCH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A reservation as a caller asks for it.

    Attributes:
        request: The work.
        pool: Capacity pool; empty for none.
        on_missing: What it does while nothing is known of the grid.
        max_hold: Longest wait with `OnMissing.HOLD`; None where it was not given.
        labels: For people.
        request_id: Idempotency key; empty for none.
        digest: Tells all this from another wish.
    """

    request: JobRequest
    pool: str = ""
    on_missing: OnMissing = OnMissing.RUN_NOW
    max_hold: timedelta | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    digest: str = ""

    def check(self) -> None:
        """Raise what is wrong with it.

        Raises:
            InvalidArgument: `max_hold` is missing, or out of place.
        """
        if (self.max_hold is None) == (self.on_missing is OnMissing.HOLD):
            message = "max_hold goes with on_missing HOLD: give both, or neither"
            raise InvalidArgument(message, violations={"reservation.max_hold": message})


class Reservations:
    """Reservations of all tenants.

    Args:
        store: Where they are kept.
        planning: Resolves zones and moments.
        grid: Knows what is expected of their zones.
        keeper: Changes them.
        pools: Names of the capacity pools.
        keep: How long an ended one is kept.
        most_open: Most of a tenant that have not ended, as the store counts them.
        clock: Present time.
    """

    def __init__(
        self,
        store: ReservationStore,
        planning: Planning,
        grid: Grid,
        keeper: Keeper,
        *,
        pools: Collection[str],
        keep: timedelta,
        most_open: int,
        clock: Clock,
    ) -> None:
        self._store = store
        self._planning = planning
        self._grid = grid
        self._keeper = keeper
        self._pools = pools
        self._keep = keep
        self._most_open = most_open
        self._clock = clock

    async def create(self, tenant: str, wish: Wish, *, within: float) -> Reservation:
        """Create one; with a request id that came before, return what was made of it.

        Args:
            tenant: Whose it is.
            wish: What is asked for.
            within: Seconds that the caller can wait.

        Raises:
            InvalidArgument: The wish contradicts itself, or reaches too far ahead.
            UnknownZone: No provider covers a zone.
            UnknownCapacityPool: There is no such pool.
            InfeasibleJob: It cannot end by its deadline; `earliest_finish` says by when it could.
            RequestIdReused: The request id came with another wish.
            TooManyReservations: The tenant has as many open ones as it may have.
        """
        if seen := await self._seen(tenant, wish):
            return seen
        item = self._made(tenant, wish)
        outlooks = await self._grid.outlooks(item, now=item.created, within=within / 2)
        outcome, made = await self._keeper.admit(item, outlooks, digest=wish.digest)
        if outcome is Outcome.FULL:
            raise TooManyReservations(
                f"tenant {tenant!r} has {self._most_open} reservations that have not ended; cancel some, or "
                "wait for some to end",
                tenant=tenant,
                limit=str(self._most_open),
            )
        if outcome is Outcome.SEEN:
            seen = await self._seen(tenant, wish)
            if seen is None:
                raise busy(item)
            return seen
        return made

    async def get(self, ref: Ref) -> Reservation:
        """Return one.

        Raises:
            UnknownReservation: There is none, or its retention is over.
        """
        return await self._keeper.get(ref)

    async def page(
        self, tenant: str, *, states: frozenset[State], before: str, most: int
    ) -> tuple[list[Reservation], str]:
        """Return the newest ones in some states, and the id before which the next page begins, or empty.

        Args:
            tenant: Whose they are.
            states: Which of them; empty is all.
            before: Where the page begins; empty is at the newest.
            most: Most reservations.
        """
        found: list[Reservation] = []
        while len(found) <= most:
            some = await self._store.newest(tenant, before=before, most=max(most + 1, _BATCH))
            if not some:
                return found, ""
            before = some[-1].id
            found += [item for item in some if not states or item.state in states]
        return found[:most], found[most - 1].id

    async def cancel(self, ref: Ref) -> Reservation:
        """Give one back; one that has ended stays as it is.

        Raises:
            UnknownReservation: There is none.
        """
        return await self._keeper.change(
            ref, lambda item, now: machine.cancelled(item, now=now, keep=self._keep)
        )

    async def report(
        self,
        ref: Ref,
        event: Event,
        *,
        token: int,
        holder: str,
        at: datetime | None,
        work_done: timedelta | None,
    ) -> Reservation:
        """Take down what a holder did.

        Args:
            ref: The reservation.
            event: What it did.
            token: Token of the last signal that it acted on.
            holder: Who it is; empty where it does not say.
            at: When it did so; None is now.
            work_done: Work that was done so far; None is the time that it ran.

        Raises:
            UnknownReservation: There is none.
            StaleToken: Another holder has acted on a later signal, or has made this start.
            ReservationEnded: It has ended.
        """

        def change(item: Reservation, now: datetime) -> Reservation | None:
            return machine.reported(
                item,
                event,
                token=token,
                holder=holder,
                at=at or now,
                work_done=work_done,
                now=now,
                keep=self._keep,
            )

        return await self._keeper.change(ref, change)

    async def _seen(self, tenant: str, wish: Wish) -> Reservation | None:
        if not wish.request_id:
            return None
        found = await self._store.request(tenant, wish.request_id)
        if found is None:
            return None
        if found.digest != wish.digest:
            raise RequestIdReused(
                f"request_id {wish.request_id!r} came with another reservation before; use a new one",
                request_id=wish.request_id,
                reservation=found.id,
            )
        # Deleted in the same moment, and its request with it: then it is made anew.
        return await self._store.get(Ref(tenant, found.id))

    def _made(self, tenant: str, wish: Wish) -> Reservation:
        wish.check()
        now = self._clock()
        zones, job = self._planning.resolved(wish.request, now)
        if wish.pool and wish.pool not in self._pools:
            raise _unknown_pool(wish.pool, self._pools)
        return Reservation(
            tenant=tenant,
            id=f"{round(now.timestamp() * 1000):012x}-{secrets.token_hex(6)}",
            zones=tuple(zone.id for zone in zones),
            duration=job.duration,
            earliest=job.earliest,
            deadline=job.deadline,
            created=now,
            margin=margin_of(job),
            interruption=job.interruption,
            power=job.power,
            pool=wish.pool,
            on_missing=wish.on_missing,
            max_hold=wish.max_hold or NO_TIME,
            labels=dict(wish.labels),
            request_id=wish.request_id,
            message="waits for its planned start",
        )


def _unknown_pool(name: str, known: Collection[str]) -> UnknownCapacityPool:
    near = difflib.get_close_matches(name, known, MOST_NEAR_MATCHES, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "AEGIS_CARBON_CAPACITY_POOLS names them all"
    return UnknownCapacityPool(
        f"capacity pool {name!r} is not known; {hint}", capacity_pool=name, near_matches=",".join(near)
    )
