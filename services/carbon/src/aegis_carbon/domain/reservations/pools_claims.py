"""What reservations take of a capacity pool, and where they are placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from aegis_carbon.domain.fitting import Stretches
from aegis_carbon.domain.job import Interruption, Job, Plan, Span
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.planner import plan_of
from aegis_carbon.domain.reservations.pools_flow import Piecework
from aegis_carbon.domain.reservations.reservation import NO_TIME, Reservation, State
from aegis_carbon.domain.ticks import TICK, spans, tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an open reservation takes of its pool.

    Attributes:
        key: Names it within the pool.
        job: Work that may still be placed, its deadline less the margin; its duration is 0 where all that is
            left runs.
        spans: Where that work is placed, in the order of time; nothing before it is.
        running: Stretch that runs, and does not move.
        outlooks: Of the zones in which it may run, its home first, over all the time of the job. Where there
            are none, or one is too short, nothing is known of the grid.
        aim: When it should start where nothing is known; None is as soon as can be.
    """

    key: str
    job: Job
    spans: tuple[Span, ...] = ()
    running: Span | None = None
    outlooks: tuple[Outlook, ...] = ()
    aim: datetime | None = None

    @classmethod
    def of(
        cls,
        item: Reservation,
        *,
        now: datetime,
        outlooks: Sequence[Outlook] = (),
        aim: datetime | None = None,
    ) -> Claim:
        """Return what an open reservation takes, once all that was due by *now* is done."""
        job, running, rest = item.job(now), None, item.spans
        if item.state is State.RUNNING and item.spans:
            running, rest = item.spans[0], item.spans[1:]
            job = _after(item, running, more=bool(rest))
        return cls(key=item.member, job=job, spans=rest, running=running, outlooks=tuple(outlooks), aim=aim)

    @property
    def moves(self) -> bool:
        """Return whether there is work that may be placed."""
        return self.job.duration > NO_TIME

    @property
    def known(self) -> bool:
        """Return whether the grid is known over all the time of the job."""
        rows = [outlook.series for outlook in self.outlooks]
        return bool(rows) and all(
            row.start <= self.job.earliest and self.job.deadline <= row.end for row in rows
        )

    @property
    def rows(self) -> Stretches:
        """Return its spans in ticks, without the one that runs."""
        return [(tick(span.start), tick(span.end)) for span in self.spans]

    @property
    def work(self) -> Piecework:
        """Return what is to be placed, in ticks."""
        job = self.job
        return Piecework(tick(job.earliest), tick(job.deadline), job.duration // TICK, self.rows)

    @property
    def kept(self) -> bool:
        """Return whether its spans lie within its time, and are enough."""
        if (
            not self.spans
            or self.spans[0].start < self.job.earliest
            or self.spans[-1].end > self.job.deadline
        ):
            return False
        overhead = self.job.interruption.resume_overhead if self.job.interruption else NO_TIME
        need = self.job.duration + overhead * (len(self.spans) - 1)
        return sum((span.end - span.start for span in self.spans), NO_TIME) >= need

    def placed(self, rows: Stretches) -> Placement:
        """Return the placement of given stretches."""
        found = spans(rows)
        plan = plan_of(self.outlooks, self.job, [found] * len(self.outlooks)) if self.known else None
        return self.planned(found, plan)

    def planned(self, rest: tuple[Span, ...], plan: Plan | None) -> Placement:
        return Placement((self.running, *rest) if self.running else rest, plan)

    def at(self, placement: Placement) -> Claim:
        """Return it where it is placed."""
        return replace(self, spans=placement.spans[1:] if self.running else placement.spans)


def _after(item: Reservation, running: Span, *, more: bool) -> Job:
    """Return what is left of a reservation after the stretch that runs, if *more* is planned at all."""
    limits = item.interruption or Interruption()
    left = item.duration - item.done_by(running.end) if more else NO_TIME
    most = None if limits.max_interruptions is None else max(0, limits.max_interruptions - item.stops - 1)
    return Job(
        earliest=running.end,
        deadline=item.deadline - item.margin,
        duration=left + limits.resume_overhead if left > NO_TIME else NO_TIME,
        interruption=replace(limits, max_interruptions=most),
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a reservation is placed.

    Attributes:
        spans: All of its spans, with the stretch that runs; what `Reservation.spans` becomes.
        plan: What those are expected to emit that do not run yet; None where nothing is known.
    """

    spans: tuple[Span, ...]
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of a pool after things went otherwise than planned.

    Attributes:
        placements: Those that have moved, by key.
        over: Those whose deadline can only be kept beyond the capacity, and is.
    """

    placements: dict[str, Placement]
    over: tuple[str, ...]
