"""Plans: when, and where, a job runs so that it emits least and still ends in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_carbon.domain.interruptible import Limits, Stretch, cleanest_stretches
from aegis_carbon.domain.job import Job, Plan, Span
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.timeseries import Values
from aegis_carbon.domain.windows import Costs
from aegis_common.errors import AegisError, InvalidArgument

BAND: Final = (0.1, 0.9)
_LEAST_TRIALS: Final = 20
_ZONES_KEPT: Final = 64


def plan(outlooks: Sequence[Outlook], job: Job) -> Plan:
    """Return the cleanest plan; of equally clean ones the earliest, in the zone that stands first.

    Args:
        outlooks: What is expected of each zone, in the order of preference; the first is where a run that
            starts at once is measured.
        job: What is to be run.

    Raises:
        InfeasibleJob: It cannot end by its deadline, or an outlook does not reach that far.
        InvalidArgument: The job contradicts itself, or the zones have different signals.
    """
    job.check()
    _check(outlooks, job)
    zones = [_zone(outlook) for outlook in outlooks]
    runs = [zone.best(job) for zone in zones]
    costs = [zone.mean(run) for zone, run in zip(zones, runs, strict=True)]
    chosen = min(range(len(zones)), key=costs.__getitem__)
    return _told(zones, job, chosen, runs[chosen], zones[chosen].spans(runs[chosen], job))


def plan_of(outlooks: Sequence[Outlook], job: Job, choices: Sequence[tuple[Span, ...]]) -> Plan | None:
    """Return the cleanest of given runs as a plan, of equally clean ones that of the first zone.

    Args:
        outlooks: As for `plan`.
        job: What is to be run.
        choices: When it would run in each zone; nothing where it cannot. None if it can in no zone.

    Raises:
        InfeasibleJob: It cannot end by its deadline, or an outlook does not reach that far.
        InvalidArgument: The job contradicts itself, or the zones have different signals.
    """
    job.check()
    _check(outlooks, job)
    zones = [_zone(outlook) for outlook in outlooks]
    runs = {number: zones[number].run(spans, job) for number, spans in enumerate(choices) if spans}
    if not runs:
        return None
    chosen = min(runs, key=lambda number: zones[number].mean(runs[number]))
    return _told(zones, job, chosen, runs[chosen], choices[chosen])


def _told(zones: Sequence[_Zone], job: Job, chosen: int, run: _Run, spans: tuple[Span, ...]) -> Plan:
    zone, at_once = zones[chosen], zones[0].at_once(job)
    cost, now = zone.mean(run), zones[0].mean(at_once)
    low, high = _band(zones[0].trials(at_once), zone.trials(run))
    return Plan(
        zone=zone.name,
        spans=spans,
        g_per_kwh=cost,
        now_g_per_kwh=now,
        saving=1 - cost / now if now else 0.0,
        saving_low=low,
        saving_high=high,
    )


def plans(
    outlooks: Mapping[str, Outlook], jobs: Sequence[tuple[Sequence[str], Job]]
) -> list[Plan | AegisError]:
    """Return a plan for each job, or why there is none; much quicker than one by one.

    Args:
        outlooks: What is expected, by zone.
        jobs: Each with the zones in which it may run, in the order of preference.
    """
    found: dict[int, Plan | AegisError] = {}
    simple: dict[str, list[int]] = {}
    for number, (zones, job) in enumerate(jobs):
        try:
            rows = [outlooks[zone] for zone in zones]
            if len(zones) == 1 and job.interruption is None and not job.power:
                job.check()
                _check(rows, job)
                simple.setdefault(zones[0], []).append(number)
            else:
                found[number] = plan(rows, job)
        except AegisError as error:
            found[number] = error
    for zone, numbers in simple.items():
        some = _zone(outlooks[zone]).plans([jobs[number][1] for number in numbers])
        found.update(zip(numbers, some, strict=True))
    return [found[number] for number in range(len(jobs))]


class _Run(NamedTuple):
    """When a job runs, in slots, and what each part of it weighs."""

    starts: Values
    ends: Values
    weights: Values


class _Zone:
    """One zone's outlook, made ready for questions."""

    def __init__(self, outlook: Outlook) -> None:
        self._series = outlook.series
        self.name = outlook.series.zone
        self._costs = Costs(outlook.series.values)
        rows = np.maximum(0.0, outlook.series.values + outlook.errors)
        # What would have been, had things gone as wrong as they did before: a row for each time before.
        self._trials = np.concatenate((np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)), axis=1)

    def best(self, job: Job) -> _Run:
        earliest, work = self._slots(job.earliest), job.duration / self._series.step
        latest = max(self._slots(job.latest_start), earliest)
        if job.power:
            durations, weights = self._shape(job)
            return self._shaped(job, self._costs.best_shaped(earliest, latest, durations, weights))
        if job.interruption is None:
            return self._plain([(start := self._costs.best(earliest, latest, work), start + work)])
        limits = Limits(
            least=job.interruption.min_chunk / self._series.step,
            interruptions=job.interruption.max_interruptions,
            overhead=job.interruption.resume_overhead / self._series.step,
        )
        values = self._series.values
        return self._plain(cleanest_stretches(self._costs, values, earliest, latest + work, work, limits))

    def at_once(self, job: Job) -> _Run:
        start = self._slots(job.earliest)
        if job.power:
            return self._shaped(job, start)
        return self._plain([(start, start + job.duration / self._series.step)])

    def run(self, spans: Sequence[Span], job: Job) -> _Run:
        """Return the run of *job* in given spans."""
        if job.power:
            return self._shaped(job, self._slots(spans[0].start))
        return self._plain([(self._slots(span.start), self._slots(span.end)) for span in spans])

    def mean(self, run: _Run) -> float:
        lengths = run.ends - run.starts
        costs = self._costs.runs(run.starts, lengths)
        return float((costs * run.weights).sum() / (lengths * run.weights).sum())

    def trials(self, run: _Run) -> Values:
        """Return the mean intensity of the run in each trial."""
        parts = self._in_trials(run.starts, run.ends) * run.weights
        return np.asarray(parts.sum(axis=1) / ((run.ends - run.starts) * run.weights).sum())

    def spans(self, run: _Run, job: Job) -> tuple[Span, ...]:
        if job.interruption is None or len(run.starts) == 1:
            start = min(max(self._moment(float(run.starts[0])), job.earliest), job.latest_start)
            return (Span(start, start + job.duration),)
        starts, ends = run.starts.tolist(), run.ends.tolist()
        edges = [(self._moment(start), self._moment(end)) for start, end in zip(starts, ends, strict=True)]
        return tuple(Span(max(start, job.earliest), min(end, job.deadline)) for start, end in edges)

    def plans(self, jobs: Sequence[Job]) -> list[Plan]:
        """Return the plans of jobs that are checked, uninterrupted, and of even power."""
        step = self._series.step
        earliest = np.array([self._slots(job.earliest) for job in jobs])
        latest = np.maximum(earliest, [self._slots(job.latest_start) for job in jobs])
        work = np.array([job.duration / step for job in jobs])
        starts = self._costs.best_of_many(earliest, latest, work)
        costs, now = self._costs.runs(starts, work) / work, self._costs.runs(earliest, work) / work
        then, at_once = self._in_trials(starts, starts + work), self._in_trials(earliest, earliest + work)
        low, high = _bands(at_once, then)
        return [
            Plan(
                zone=self._series.zone,
                spans=self.spans(self._plain([(starts[number], starts[number])]), job),
                g_per_kwh=float(costs[number]),
                now_g_per_kwh=float(now[number]),
                saving=float(1 - costs[number] / now[number]) if now[number] else 0.0,
                saving_low=low[number],
                saving_high=high[number],
            )
            for number, job in enumerate(jobs)
        ]

    def _in_trials(self, starts: Values, ends: Values) -> Values:
        """Return trials by runs: what each run costs."""

        def until(edges: Values) -> Values:
            slots = np.minimum(edges.astype(np.int64), self._trials.shape[1] - 2)
            below, above = self._trials[:, slots], self._trials[:, slots + 1]
            return np.asarray(below + (edges - slots) * (above - below))

        return until(ends) - until(starts)

    def _shaped(self, job: Job, start: float) -> _Run:
        durations, weights = self._shape(job)
        ends = start + np.cumsum(durations)
        return _Run(ends - durations, ends, weights)

    def _shape(self, job: Job) -> tuple[Values, Values]:
        durations = np.array([part.duration / self._series.step for part in job.power])
        return durations, np.array([part.kw for part in job.power])

    def _slots(self, moment: datetime) -> float:
        return (moment - self._series.start) / self._series.step

    def _moment(self, slots: float) -> datetime:
        return self._series.start + slots * self._series.step

    @staticmethod
    def _plain(stretches: Sequence[Stretch]) -> _Run:
        starts, ends = np.array(stretches, np.float64).T
        return _Run(starts, ends, np.ones(len(starts)))


@lru_cache(maxsize=_ZONES_KEPT)
def _zone(outlook: Outlook) -> _Zone:
    return _Zone(outlook)


def _check(outlooks: Sequence[Outlook], job: Job) -> None:
    if len({outlook.signal for outlook in outlooks}) > 1:
        told = ", ".join(f"{outlook.zone}: {outlook.signal.value}" for outlook in outlooks)
        raise InvalidArgument(f"zones of different signals cannot be compared ({told})")
    for outlook in outlooks:
        if job.earliest < outlook.series.start or job.deadline > outlook.series.end:
            raise InfeasibleJob(
                f"the outlook for zone {outlook.zone!r} spans {outlook.series.start.isoformat()} to "
                f"{outlook.series.end.isoformat()}; the job may run outside of it",
                zone=outlook.zone,
            )


def _band(now: Values, then: Values) -> tuple[float | None, float | None]:
    count = min(len(now), len(then))
    low, high = _bands(now[len(now) - count :, None], then[len(then) - count :, None])
    return low[0], high[0]


def _bands(now: Values, then: Values) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """Return the edges of the band of the saving, of each run; trials by runs in."""
    if len(now) < _LEAST_TRIALS:
        none = [None] * now.shape[1]
        return none, none
    savings = 1 - then / np.where(now > 0, now, 1.0)
    low, high = np.quantile(savings, BAND, axis=0)
    return low.tolist(), high.tolist()
