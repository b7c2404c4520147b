"""The keeper of reservations, as the controller needs it: the carbon service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from aegis_carbon.domain.job_wish import JobWish
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.reservation_holder import Signal


class CarbonUnavailable(AegisError):
    """The carbon service did not do what it was asked for; later it may."""

    kind = ErrorKind.UNAVAILABLE
    reason = "CARBON_UNAVAILABLE"


class Later(AegisError):
    """The carbon service makes no reservation now, but may when others have ended."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "RESERVATION_LATER"


class Refused(AegisError):
    """The carbon service gives this wish no reservation, now or later; `cause` is its own reason."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RESERVATION_REFUSED"

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message, cause=cause)
        self.cause: Final = cause


class State(StrEnum):
    """Where a reservation stands."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    FINISHED = "FINISHED"
    CANCELLED = "CANCELLED"


OPEN: Final = frozenset({State.WAITING, State.RUNNING, State.SUSPENDED})


class Event(StrEnum):
    """What is reported of a reservation."""

    STARTED = "STARTED"
    SUSPENDED = "SUSPENDED"
    RESUMED = "RESUMED"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class Told:
    """The signal of a reservation that holds now."""

    token: int
    kind: Signal
    message: str
    latest_start: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation, as the carbon service told it.

    Attributes:
        uid, namespace, job, wish: Of the Job that it was made for.
        starts: When its plan begins, or goes on; None without a plan.
        end_assumed: Whether its end was not reported, but assumed.
    """

    name: str
    tenant: str
    uid: str
    namespace: str
    job: str
    wish: str
    state: State
    start_token: int = 1
    signal: Told | None = None
    latest_start: datetime | None = None
    starts: datetime | None = None
    message: str = ""
    end_assumed: bool = False

    @property
    def open(self) -> bool:
        return self.state in OPEN


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reservation to be made.

    Attributes:
        key: Tells it from every other one that was or will be made.
        wish: What the Job asks for.
        digest: Digest of it.
        deadline: Its deadline, less what the controller keeps free.
        resume_overhead: Time that each resume costs.
    """

    key: str
    tenant: str
    uid: str
    namespace: str
    job: str
    wish: JobWish
    digest: str
    deadline: datetime
    resume_overhead: timedelta


@dataclass(frozen=True, slots=True)
class Report:
    """What was done with the work of a reservation.

    Attributes:
        token: Token of the last signal that was acted on.
        at: When it was done; None: now.
        work_done: Work that was done so far; None: the time that it ran.
    """

    event: Event
    token: int
    at: datetime | None
    work_done: timedelta | None = None


class Reservations(Protocol):
    """Keeps the reservations of all tenants. A method that gets no answer raises `CarbonUnavailable`."""

    async def open(self, tenant: str) -> Sequence[Reservation]:
        """Return the tenant's reservations that have not ended and were made by this controller."""
        ...

    async def create(self, wanted: Wanted) -> Reservation:
        """Make a reservation, or return the one that was made for the same wish.

        Raises:
            Refused: There will be none for this wish.
            Later: There is none now.
        """
        ...

    async def get(self, tenant: str, name: str) -> Reservation | None:
        """Return one as it stands; None if it is not known any more."""
        ...

    async def report(self, tenant: str, name: str, report: Report) -> None:
        """Report; the same again changes nothing, and what came too late is let go."""
        ...

    async def cancel(self, tenant: str, name: str) -> None:
        """Give one back; one that has ended, or is unknown, is let go."""
        ...
