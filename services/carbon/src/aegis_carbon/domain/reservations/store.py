"""What reservations ask of their store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple, Protocol

from aegis_carbon.domain.reservations.reservation import Reservation


class Ref(NamedTuple):
    """Names a reservation."""

    tenant: str
    id: str


class Outcome(Enum):
    """What came of a commit."""

    DONE = "done"
    AGAIN = "again"
    """The same was written before: the answer was lost, or another replica did the same."""
    OVERTAKEN = "overtaken"
    """Another has changed the reservation, or its pool, meanwhile: nothing was written."""
    FULL = "full"
    """The tenant has as many open ones as it may have: nothing was written."""
    SEEN = "seen"
    """The request id came before: nothing was written."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a request id stands for.

    Attributes:
        id: Reservation.
        digest: Tells what was asked for.
    """

    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Pool:
    """A capacity pool as it was read.

    Attributes:
        revision: Counts its changes.
        members: Its reservations that have not ended.
    """

    revision: int
    members: tuple[Reservation, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many reservations have not ended, of all tenants."""

    waiting: int
    running: int


class ReservationStore(Protocol):
    """Keeps what it acknowledges, and makes each change in one step.

    Each method raises `ReservationStoreUnavailable` while the store does not answer,
    `ReservationsNotConfigured` where it may lose writes. `get` raises `UnreadableReservation` for a record
    that it cannot read; of several, such a one is left out.
    """

    async def request(self, tenant: str, request_id: str) -> Request | None:
        """Return what was made of a request id, as long as the reservation is kept."""

    async def get(self, ref: Ref) -> Reservation | None: ...

    async def commit(
        self,
        changes: Sequence[Reservation],
        *,
        now: datetime,
        pool: int | None = None,
        new: str | None = None,
    ) -> Outcome:
        """Write reservations; all of them, or none.

        Args:
            changes: Each in the place of the revision before its own; revision 1 is a new one, and stands
                first. All are of one pool, or of none.
            now: Present time.
            pool: Revision of the pool on which the changes rest; None where they rest on none.
            new: Digest of what was asked for, where the first of them is new.
        """

    async def pool(self, name: str) -> Pool: ...

    async def newest(self, tenant: str, *, before: str, most: int) -> list[Reservation]:
        """Return reservations of a tenant by id, from *before* down, without it; empty is from the newest."""

    async def due(self, now: datetime, *, most: int) -> list[Ref]:
        """Return the reservations to which something is to happen, the earliest first."""

    async def next_due(self) -> datetime | None:
        """Return when something is to happen next."""

    async def take_looks(self, now: datetime, *, most: int) -> list[Ref]:
        """Return waiting reservations to look at for a new plan, and keep others from them for a while."""

    async def counts(self) -> Counts: ...

    async def put_off(self, ref: Ref, until: datetime) -> None:
        """Look at one that cannot be read no sooner than that."""

    async def forget(self, ref: Ref) -> None:
        """Note that one that is gone is never due."""

    async def drop_expired(self, now: datetime, *, most: int) -> int:
        """Delete the ended ones whose retention is over; return how many."""


class ReservationObserver(Protocol):
    """Counts what happens."""

    def changed(self, before: Reservation, after: Reservation) -> None:
        """A reservation was written; of a new one *before* has the same revision less one, and no spans."""

    def crowded(self, pool: str, over: int) -> None:
        """So many reservations of a pool run beyond its capacity, lest they miss their deadlines."""
