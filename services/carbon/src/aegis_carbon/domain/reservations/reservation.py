"""A reservation, and what may become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from aegis_carbon.domain.job import Interruption, Job, Plan, PowerStep, Span

MOST_MARGIN: Final = timedelta(seconds=10)
MOST_RESERVE: Final = timedelta(seconds=1)
_SHARE: Final = 10
_RESERVE_SHARE: Final = 100
NO_TIME: Final = timedelta(0)


class State(Enum):
    """Where a reservation stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    FINISHED = "finished"
    CANCELLED = "cancelled"


WAITS: Final = frozenset({State.WAITING, State.SUSPENDED})
"""States in which a new forecast may change the plan."""


class OnMissing(Enum):
    """What it does while nothing is known of the grid."""

    RUN_NOW = "run_now"
    RUN_AT_LATEST_START = "run_at_latest_start"
    HOLD = "hold"


class Kind(Enum):
    """Kind of a signal."""

    START = "start"
    SUSPEND = "suspend"
    RESUME = "resume"
    DEADLINE = "deadline"


class Reason(Enum):
    """Why a signal was given."""

    PLANNED_SPAN = "planned_span"
    PLANNED_PAUSE = "planned_pause"
    LATEST_START = "latest_start"
    NO_DATA = "no_data"
    NEW_FORECAST = "new_forecast"
    HOLDER = "holder"


class Event(Enum):
    """What a holder did."""

    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What the holder is to do; see the contract for each field."""

    token: int
    kind: Kind
    reason: Reason
    message: str
    time: datetime
    until: datetime | None = None
    latest_start: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One reservation. Times are UTC.

    Attributes:
        spans: When the work that is left runs, in the order of time. There always is such a schedule while it
            is open, whether or not anything is known of the grid: together those of a pool keep its capacity,
            and they end by their deadlines.
        plan: What the spans are expected to emit; None where nothing is known.
        running_since: When the stretch that runs began; None while nothing runs.
        done: Work that was done before that stretch.
        margin: Time that plans keep free before the deadline; half of it is for signals that come late.
        heard: What its holder said last: the event, and the token of the signal that it acted on.
        mark: Tells the forecast that the plan was made of.
        revision: Counts the changes.
    """

    tenant: str
    id: str
    zones: tuple[str, ...]
    duration: timedelta
    earliest: datetime
    deadline: datetime
    created: datetime
    margin: timedelta
    interruption: Interruption | None = None
    power: tuple[PowerStep, ...] = ()
    pool: str = ""
    on_missing: OnMissing = OnMissing.RUN_NOW
    max_hold: timedelta = NO_TIME
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    state: State = State.WAITING
    message: str = ""
    spans: tuple[Span, ...] = ()
    plan: Plan | None = None
    mark: str = ""
    signal: Signal | None = None
    start_token: int = 1
    holder: str = ""
    heard: str = ""
    running_since: datetime | None = None
    done: timedelta = NO_TIME
    stops: int = 0
    replans: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    expires: datetime | None = None
    end_assumed: bool = False
    revision: int = 0

    @property
    def member(self) -> str:
        return f"{self.tenant}/{self.id}"

    @property
    def open(self) -> bool:
        return self.ended is None

    @property
    def overhead(self) -> timedelta:
        """Time that the next resume costs."""
        return self.interruption.resume_overhead if self.stops and self.interruption else NO_TIME

    @property
    def reserve(self) -> timedelta:
        """Time by which a pool keeps more than the work needs: signals come a moment late."""
        return min(MOST_RESERVE, self.duration / _RESERVE_SHARE) if self.pool else NO_TIME

    @property
    def left(self) -> timedelta:
        """Time that the work which is left runs from its next start on, resume and all."""
        return self.duration - self.done + self.overhead

    @property
    def last_end(self) -> datetime:
        """Last moment at which it may end: half of the margin before its deadline."""
        return self.deadline - self.margin / 2

    @property
    def latest_start(self) -> datetime:
        """Last moment at which the work that is left still ends in time, less half of the margin."""
        return self.last_end - self.left

    @property
    def token(self) -> int:
        return self.signal.token if self.signal else 0

    def done_by(self, now: datetime) -> timedelta:
        """Return the work that is done at a moment."""
        if self.running_since is None:
            return self.done
        ran = max(NO_TIME, now - self.running_since - self.overhead)
        return min(self.duration, self.done + ran)

    def job(self, now: datetime) -> Job:
        """Return the work that is left, to be placed from *now* on, with the whole margin."""
        latest = self.deadline - self.margin - self.left
        return Job(
            earliest=min(max(now, self.earliest), max(latest, self.earliest)),
            deadline=self.deadline - self.margin,
            duration=self.left,
            interruption=self._interruption_left(),
            power=self.power,
        )

    def _interruption_left(self) -> Interruption | None:
        limits = self.interruption
        if limits is None or limits.max_interruptions is None:
            return limits
        left = max(0, limits.max_interruptions - self.stops)
        return Interruption(
            min_chunk=limits.min_chunk, max_interruptions=left, resume_overhead=limits.resume_overhead
        )

    @property
    def due(self) -> datetime:
        """Return when something is to happen to it by itself."""
        if self.state is State.RUNNING:
            last = len(self.spans) <= 1
            end = self.spans[0].end if self.spans else self.deadline
            return end + self.margin if last else end
        if not self.open:
            return self.expires or self.deadline
        first = self.spans[0].start if self.spans else self.latest_start
        return min(first, self.latest_start)


def margin_of(job: Job) -> timedelta:
    """Return the time to keep free before a job's deadline: ten seconds, or less where there is no slack."""
    return min(MOST_MARGIN, (job.latest_start - job.earliest) / _SHARE)


def deadline_for(finish: datetime, job: Job) -> datetime:
    """Return a deadline that leaves a job's margin after *finish*, in whole seconds."""
    slack = max(NO_TIME, finish - job.earliest - job.duration)
    wanted = finish + min(MOST_MARGIN, slack / (_SHARE - 1))
    part = timedelta(microseconds=wanted.microsecond)
    return wanted - part + timedelta(seconds=1) if part else wanted
