"""One look at one Job: what it asks for, what was done, what the carbon service said, and what to do."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.controller.domain.job import Job
from aegis_carbon.controller.domain.ports import Change, Note
from aegis_carbon.controller.domain.record import NO_TIME, Phase, Record
from aegis_carbon.controller.domain.reservations import Refused, Reservation, Wanted
from aegis_carbon.domain.job_wish import JobWish
from aegis_common.reservation_holder import ReservationHolder

RUN_NOW: Final = "run_now"
HOLD: Final = "hold"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator sets.

    Attributes:
        pod_start: Time from the moment at which a Job is resumed until its work goes on; kept free before its
            deadline, and not counted as work.
        grace: How long a new Job whose `on-missing` is `run_now` waits for a carbon service that is away.
    """

    pod_start: timedelta = timedelta(seconds=60)
    grace: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Known:
    """What the carbon service has said of a Job.

    Attributes:
        reservation: Its reservation for the present wish; one that has ended too.
        refusal: Why there will be none.
        trouble: Why it gave no answer when it was asked last; empty: it answered.
    """

    reservation: Reservation | None = None
    refusal: Refused | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """The holder of a Job, and the record that it goes with."""

    record: Record
    holder: ReservationHolder


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a Job now.

    Attributes:
        change: To be made; the notes are told, and the memory kept, once it was.
        wanted: The reservation that it lacks; None: none is lacking.
        again: When to look again, if nothing changes before; None: only then.
    """

    change: Change | None = None
    notes: tuple[Note, ...] = ()
    wanted: Wanted | None = None
    memory: Memory | None = None
    again: datetime | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A Job with a wish that can be followed."""

    job: Job
    tenant: str
    wish: JobWish
    digest: str
    record: Record | None
    known: Known
    memory: Memory | None
    rules: Rules
    now: datetime
    elapsed_s: float

    @property
    def bound(self) -> datetime:
        """The deadline, less the time that a pod takes to start where there is room for it."""
        return bound(self.wish, self.job.created, self.rules)

    @property
    def reservation(self) -> Reservation | None:
        """Its reservation for the present wish; not one that ended before the wish was taken down."""
        found, record = self.known.reservation, self.record
        if found is None or found.wish != self.digest:
            return None
        if not found.open and record is not None and record.reservation != found.name:
            return None
        return found

    @property
    def wanted(self) -> Wanted:
        """The reservation that is made for it."""
        key = f"{self.job.uid}.{self.digest}"
        if self.record is not None and self.record.wish == self.digest:
            # A wish that is taken back and made again is another one.
            key += f".{round(self.record.since.timestamp())}"
        return Wanted(
            key=key,
            tenant=self.tenant,
            uid=self.job.uid,
            namespace=self.job.namespace,
            job=self.job.name,
            wish=self.wish,
            digest=self.digest,
            deadline=self.bound,
            resume_overhead=self.rules.pod_start,
        )

    def record_of(self, phase: Phase, *, found_suspended: bool = False, whole: bool = False) -> Record:
        """Return a first record, with the reservation where there is one."""
        first = Record(
            wish=self.digest, phase=phase, since=self.now, found_suspended=found_suspended, whole=whole
        )
        return booked(first, self.reservation)

    def holder(self, record: Record) -> ReservationHolder:
        """Return a holder to go on with: a copy, so that what is not carried out is not taken as done."""
        if self.memory is not None and self.memory.record == record:
            return copy.copy(self.memory.holder)
        made = ReservationHolder(
            self.bound,
            self.wish.duration,
            start_token=record.start_token,
            interruptible=self.wish.interruptible and not record.whole,
            started=record.phase is not Phase.WAITING,
            running=record.phase is Phase.RUNNING,
            token=record.token,
        )
        if record.held:
            made.answered(record.token, record.latest)
        return made

    def latest_start(self) -> datetime:
        """Return the latest start of the whole work, as known without any service."""
        return ReservationHolder(self.bound, self.wish.duration).latest_start()

    def gives_up(self, record: Record) -> datetime:
        """Return until when it waits for a reservation: as `on-missing` says, and never for too long."""
        latest = self.latest_start()
        if self.wish.on_missing == RUN_NOW:
            return min(record.since + self.rules.grace, latest)
        if self.wish.on_missing == HOLD and self.wish.max_hold is not None:
            return min(self.job.created + self.wish.max_hold, latest)
        return latest


def bound(wish: JobWish, created: datetime, rules: Rules) -> datetime:
    """Return the deadline that is kept: earlier than the wish by the time that pods take to start."""
    slack = wish.latest_start(NO_TIME) - created
    return wish.deadline - min(rules.pod_start, max(slack, NO_TIME))


def booked(record: Record, reservation: Reservation | None) -> Record:
    """Return *record* with what it has to know of its reservation."""
    if reservation is None or record.reservation == reservation.name:
        return record
    return replace(
        record,
        reservation=reservation.name,
        start_token=reservation.start_token,
        latest=reservation.latest_start,
    )


def worked(record: Record, now: datetime, rules: Rules) -> timedelta:
    """Return the time that the work has run for sure."""
    if record.phase is not Phase.RUNNING:
        return record.worked
    return record.worked + max(now - record.since - rules.pod_start, NO_TIME)
