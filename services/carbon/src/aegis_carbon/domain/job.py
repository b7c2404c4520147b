"""A job that waits for clean power, and the plan that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_common.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """How a job may be suspended and resumed.

    Attributes:
        min_chunk: Shortest time between a start or resume and the next stop.
        max_interruptions: Most suspensions; None is any number.
        resume_overhead: Time that each resume costs before work goes on.
    """

    min_chunk: timedelta = timedelta(0)
    max_interruptions: int | None = None
    resume_overhead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class PowerStep:
    """Part of a job's run, and its power in kW; the parts follow one another."""

    duration: timedelta
    kw: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be run.

    Attributes:
        earliest: First moment at which it may run, UTC.
        deadline: Moment at which it must have ended; strict.
        duration: Time that it runs, without interruptions.
        interruption: How it may be interrupted; None if it may not.
        power: Its power over the run, in the order of time, together *duration*; empty is 1 kW throughout.
    """

    earliest: datetime
    deadline: datetime
    duration: timedelta
    interruption: Interruption | None = None
    power: tuple[PowerStep, ...] = ()

    @property
    def latest_start(self) -> datetime:
        """Last moment at which an uninterrupted run still ends in time."""
        return self.deadline - self.duration

    def check(self) -> None:
        """Raise what is wrong with it.

        Raises:
            InfeasibleJob: It cannot end by its deadline; `earliest_finish` says by when it could.
            InvalidArgument: It contradicts itself.
        """
        if self.latest_start < self.earliest:
            finish = self.earliest + self.duration
            raise InfeasibleJob(
                f"a job of {self.duration} that may start at {self.earliest.isoformat()} cannot end by "
                f"{self.deadline.isoformat()}; it ends at {finish.isoformat()} at the earliest",
                earliest_finish=finish.isoformat(),
            )
        if self.interruption is not None and self.power:
            raise InvalidArgument("a job with a power profile cannot be interrupted; give one of the two")
        if self.power and sum((part.duration for part in self.power), timedelta(0)) != self.duration:
            raise InvalidArgument(f"the parts of the power profile do not add up to {self.duration}")


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open time in which the job runs."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When and where a job runs.

    Attributes:
        zone: Where.
        spans: When, in the order of time.
        g_per_kwh: Expected mean intensity over the run, weighted by power.
        now_g_per_kwh: The same for a run from `earliest` on in the first zone that was given.
        saving: Expected saving against that, as a share; below 0 is worse.
        saving_low: Lower edge of the 80 % band of `saving`; None where the past is too short to tell.
        saving_high: Upper edge.
    """

    zone: str
    spans: tuple[Span, ...]
    g_per_kwh: float
    now_g_per_kwh: float
    saving: float
    saving_low: float | None = None
    saving_high: float | None = None
