"""When a job runs so that it emits least, within times that are free: exact to the microsecond."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np

from aegis_carbon.domain.interruptible import Limits, cheapest, cleanest_stretches
from aegis_carbon.domain.job import Interruption, Job
from aegis_carbon.domain.ticks import TICK, Ticks, joined, tick
from aegis_carbon.domain.timeseries import IntensitySeries, Values
from aegis_carbon.domain.windows import Costs

Stretches = list[tuple[int, int]]
"""Start and end of each stretch in ticks, in the order of time."""
_NONE: Final[Stretches] = []


def fitted(series: IntensitySeries, job: Job, free: Ticks) -> Stretches:
    """Return the cleanest stretches for *job*; of equal ones the earliest. None where it does not fit.

    Args:
        series: Expected intensities; the job's time lies within them.
        job: What is to be run.
        free: Times in which it may run, in the order of time; none touches another.
    """
    start, end = tick(job.earliest), tick(job.deadline)
    free = np.clip(free[(free[:, 1] > start) & (free[:, 0] < end)], start, end)
    row = _Row(series)
    if divisible(job):
        return row.pieces(job, free)
    whole, limits = row.whole(job, free), job.interruption
    if limits is None or limits.max_interruptions == 0:
        return whole
    return row.limited(job, limits, free) or whole


def near(job: Job, free: Ticks, aim: datetime) -> Stretches:
    """Return stretches as near to a moment as they fit, and whole if that can be; none where they do not fit.

    Args:
        job: What is to be run.
        free: Times in which it may run, as `fitted` takes them.
        aim: When it should start.
    """
    start, end, length = tick(job.earliest), tick(job.deadline), job.duration // TICK
    free = np.clip(free[(free[:, 1] > start) & (free[:, 0] < end)], start, end)
    wanted = min(max(tick(aim), start), max(start, end - length))
    long = free[free[:, 1] - free[:, 0] >= length]
    if len(long):
        starts = np.clip(wanted, long[:, 0], long[:, 1] - length)
        begin = int(starts[np.abs(starts - wanted).argmin()])
        return [(begin, begin + length)]
    if not divisible(job) or (free[:, 1] - free[:, 0]).sum() < length:
        return _NONE
    # What lies after the moment is taken first, from there on; then what lies before it, backwards.
    after, before = np.maximum(free, wanted), np.minimum(free, wanted)[::-1]
    left, rows = length, []
    for begin, stop in after[after[:, 0] < after[:, 1]].tolist():
        rows.append((begin, min(stop, begin + left)))
        left -= rows[-1][1] - begin
    for begin, stop in before[before[:, 0] < before[:, 1]].tolist():
        rows.append((max(begin, stop - left), stop))
        left -= stop - rows[-1][0]
    return joined(rows)


def divisible(job: Job) -> bool:
    """Return whether it may be cut into any pieces at no cost."""
    limits = job.interruption
    return limits is not None and not (
        limits.min_chunk or limits.resume_overhead or limits.max_interruptions is not None
    )


class _Row:
    def __init__(self, series: IntensitySeries) -> None:
        self._start, self._step = tick(series.start), series.step // TICK
        self._values = series.values

    def whole(self, job: Job, free: Ticks) -> Stretches:
        """Return the cleanest run without an interruption."""
        length = job.duration // TICK
        free = free[free[:, 1] - free[:, 0] >= length]
        if not len(free):
            return _NONE
        parts = [(part.duration / job.duration, part.kw) for part in job.power] or [(1.0, 1.0)]
        shares, weights = np.array(parts).T
        durations = shares * (length / self._step)
        earliest, latest = self._slots(free[:, 0]), self._slots(free[:, 1] - length)
        edges = np.concatenate(([0.0], np.cumsum(durations)))
        first, last = np.ceil(earliest[0]), np.floor(latest[-1] + edges[-1])
        # The cost is linear between the moments at which an edge of the run meets an edge of a slot.
        meeting = np.sort((np.arange(first, last + 1)[:, None] - edges).ravel())
        place = np.searchsorted(earliest, meeting, "right") - 1
        meeting = meeting[(place >= 0) & (meeting <= latest[place])]
        starts = np.sort(np.concatenate((earliest, latest, meeting)))
        costs = np.round(Costs(self._values).shaped(starts, durations, weights), 9)
        best = int(costs.argmin())
        if np.isinf(costs[best]):
            return _NONE
        gap = max(0, int(np.searchsorted(earliest, starts[best], "right")) - 1)
        begin = self._tick(starts[best])
        begin = min(max(begin, int(free[gap, 0])), int(free[gap, 1]) - length)
        return [(begin, begin + length)]

    def pieces(self, job: Job, free: Ticks) -> Stretches:
        """Return the cleanest pieces."""
        length = job.duration // TICK
        if (free[:, 1] - free[:, 0]).sum() < length:
            return _NONE
        first, last = (free[0, 0] - self._start) // self._step, (free[-1, 1] - self._start) // self._step
        slots = np.arange(first, last + 2) * self._step + self._start
        edges = np.unique(np.concatenate((free.ravel(), slots)))
        starts, lengths = edges[:-1], np.diff(edges)
        place = np.searchsorted(free[:, 0], starts, "right") - 1
        inside = (place >= 0) & (starts < free[place, 1])
        starts, lengths = starts[inside], lengths[inside]
        costs = self._values[(starts - self._start) // self._step]
        return joined([(int(a), int(b)) for a, b in cheapest(starts, lengths, costs, length)])

    def limited(self, job: Job, asked: Interruption, free: Ticks) -> Stretches:
        """Return the cleanest stretches that keep the limits; a slot taken in part counts as taken."""
        earliest, deadline = (float(self._slots(tick(at))) for at in (job.earliest, job.deadline))
        values = np.where(self._open(free, earliest, deadline), self._values, np.nan)
        limits = Limits(
            least=asked.min_chunk / TICK / self._step,
            interruptions=asked.max_interruptions,
            overhead=asked.resume_overhead / TICK / self._step,
        )
        work = job.duration / TICK / self._step
        found = cleanest_stretches(
            Costs(values), values, earliest, max(deadline, earliest + work), work, limits
        )
        rows = joined([(self._tick(start), self._tick(end)) for start, end in found])
        need = job.duration // TICK + asked.resume_overhead // TICK * (len(rows) - 1)
        return _exact(rows, need, free)

    def _open(self, free: Ticks, earliest: float, deadline: float) -> Values:
        """Return of each slot whether all of it that lies within the job's time is free."""
        edges = np.clip(np.arange(len(self._values) + 1, dtype=np.float64), earliest, deadline)
        ends = self._slots(free.ravel())
        sums = np.concatenate(([0.0], np.cumsum(np.diff(ends) * (np.arange(len(ends) - 1) % 2 == 0))))
        covered = np.diff(np.interp(edges, ends, sums)) if len(ends) else np.zeros(len(self._values))
        return np.asarray(covered >= np.diff(edges) - 1 / self._step)

    def _slots(self, ticks: Ticks | int) -> Values:
        return np.asarray((np.asarray(ticks) - self._start) / self._step, np.float64)

    def _tick(self, slots: float) -> int:
        return self._start + round(float(slots) * self._step)


def _exact(rows: Stretches, need: int, free: Ticks) -> Stretches:
    """Return stretches without the errors of rounding, together *need*, or none if they are not free."""
    found, room = _NONE, 0
    for start, end in rows:
        gap = int(np.searchsorted(free[:, 1], start + 1, "left"))
        if gap == len(free) or start < free[gap, 0] - len(rows) or end > free[gap, 1] + len(rows):
            return _NONE
        begin, room = max(start, int(free[gap, 0])), int(free[gap, 1])
        found = [*found, (begin, min(end, room))]
    missing = need - sum(end - start for start, end in found)
    start, end = found[-1]
    return [*found[:-1], (start, end + missing)] if start < end + missing <= room else _NONE
