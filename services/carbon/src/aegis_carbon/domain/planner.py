"""Plans: when, and where, a job runs so that it emits least and still ends in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_carbon.domain.interruptible import Limits, Stretch, cleanest_stretches
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.timeseries import Values
from aegis_carbon.domain.windows import Costs
from aegis_common.errors import InvalidArgument

BAND: Final = (0.1, 0.9)
_LEAST_SAMPLES: Final = 20
_HOUR: Final = timedelta(hours=1)


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


def plan(outlooks: Mapping[str, Outlook], job: Job) -> Plan:
    """Return the cleanest plan; of equally clean ones the earliest, in the zone that stands first.

    Args:
        outlooks: What is expected, by zone, in the order of preference; the first is where "now" is measured.
        job: What is to be run.

    Raises:
        InfeasibleJob: It cannot end by its deadline, or an outlook does not reach that far.
        InvalidArgument: The job contradicts itself, or the zones have different signals.
    """
    _check(outlooks, job)
    rows = [_Row(outlook, job) for outlook in outlooks.values()]
    now = rows[0].now()
    chosen = min(rows, key=lambda row: row.cost)
    low, high = _band(rows[0], chosen)
    return Plan(
        zone=chosen.outlook.zone,
        spans=chosen.spans(),
        g_per_kwh=chosen.cost,
        now_g_per_kwh=now,
        saving=_saving(now, chosen.cost),
        saving_low=low,
        saving_high=high,
    )


class _Row:
    """One zone's outlook, and the best that the job can do there."""

    def __init__(self, outlook: Outlook, job: Job) -> None:
        self.outlook = outlook
        self._job = job
        self._step = outlook.series.step
        self._costs = Costs(outlook.series.values)
        self.stretches = self._best()
        self.cost = self._mean(self._costs, self.stretches)

    def now(self) -> float:
        return self._mean(self._costs, self._at_once())

    def spans(self) -> tuple[Span, ...]:
        if len(self.stretches) == 1:
            start = min(max(self._moment(self.stretches[0][0]), self._job.earliest), self._job.latest_start)
            return (Span(start, start + self._job.duration),)
        return tuple(Span(self._moment(start), self._moment(end)) for start, end in self.stretches)

    def samples(self, *, now: bool) -> Values:
        """Return the mean intensity of the run for each way in which the past was not as expected."""
        stretches = self._at_once() if now else self.stretches
        rows = np.maximum(0.0, self.outlook.series.values + self.outlook.errors)
        return np.array([self._mean(Costs(row), stretches) for row in rows])

    def _best(self) -> list[Stretch]:
        job = self._job
        earliest, work = self._slots(job.earliest), job.duration / self._step
        deadline = max(self._slots(job.deadline), earliest + work)
        if job.power:
            return self._at(self._costs.best_shaped(earliest, deadline - work, *self._shape()), work)
        if job.interruption is None:
            return self._at(self._costs.best(earliest, deadline - work, work), work)
        limits = Limits(
            least=job.interruption.min_chunk / self._step,
            interruptions=job.interruption.max_interruptions,
            overhead=job.interruption.resume_overhead / self._step,
        )
        values = self.outlook.series.values
        return cleanest_stretches(self._costs, values, earliest, deadline, work, limits)

    def _at_once(self) -> list[Stretch]:
        return self._at(self._slots(self._job.earliest), self._job.duration / self._step)

    def _mean(self, costs: Costs, stretches: Sequence[Stretch]) -> float:
        starts, ends = np.array(stretches).T
        if self._job.power:
            durations, powers = self._shape()
            cost = float(costs.shaped(starts, durations, powers)[0])
            return cost / float((durations * powers).sum())
        return float(costs.runs(starts, ends - starts).sum()) / float((ends - starts).sum())

    def _shape(self) -> tuple[Values, Values]:
        durations = np.array([part.duration / self._step for part in self._job.power])
        return durations, np.array([part.kw for part in self._job.power])

    def _slots(self, moment: datetime) -> float:
        return (moment - self.outlook.series.start) / self._step

    def _moment(self, slots: float) -> datetime:
        return min(self.outlook.series.start + slots * self._step, self._job.deadline)

    @staticmethod
    def _at(start: float, work: float) -> list[Stretch]:
        return [(start, start + work)]


def _check(outlooks: Mapping[str, Outlook], job: Job) -> None:
    if job.latest_start < job.earliest:
        finish = job.earliest + job.duration
        raise InfeasibleJob(
            f"a job of {job.duration} that may start at {job.earliest.isoformat()} cannot end by "
            f"{job.deadline.isoformat()}; it ends at {finish.isoformat()} at the earliest",
            earliest_finish=finish.isoformat(),
        )
    if job.interruption is not None and job.power:
        raise InvalidArgument("a job with a power profile cannot be interrupted; give one of the two")
    if job.power and sum((part.duration for part in job.power), timedelta(0)) != job.duration:
        raise InvalidArgument(f"the parts of the power profile are together not the duration, {job.duration}")
    if len({outlook.signal for outlook in outlooks.values()}) > 1:
        told = ", ".join(f"{zone}: {outlook.signal.value}" for zone, outlook in outlooks.items())
        raise InvalidArgument(f"zones of different signals cannot be compared ({told})")
    for outlook in outlooks.values():
        if job.earliest < outlook.series.start or job.deadline > outlook.series.end:
            raise InfeasibleJob(
                f"the outlook for zone {outlook.zone!r} spans {outlook.series.start.isoformat()} to "
                f"{outlook.series.end.isoformat()}; the job may run outside of it",
                zone=outlook.zone,
            )


def _saving(now: float, cost: float) -> float:
    return 1 - cost / now if now else 0.0


def _band(first: _Row, chosen: _Row) -> tuple[float | None, float | None]:
    """Return the band of the saving: what it would have been, had things gone as wrong as they did before."""
    count = min(len(first.outlook.errors), len(chosen.outlook.errors))
    if count < _LEAST_SAMPLES:
        return None, None
    now, cost = first.samples(now=True)[-count:], chosen.samples(now=False)[-count:]
    low, high = np.quantile(1 - cost / np.where(now > 0, now, 1.0), BAND)
    return float(low), float(high)
