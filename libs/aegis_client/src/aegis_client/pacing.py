"""Says, moment by moment, whether a job that can wait for clean power should run; it is never late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aegis_client.carbon_plans import Plan, PlannedJob
from aegis_client.errors import AegisApiError

LONGEST_MARGIN: Final = timedelta(seconds=30)
_MARGIN: Final = 0.02
_PLANS_PER_WAIT: Final = 48
_SHORTEST_PAUSE: Final = timedelta(seconds=1)
_LONGEST_PAUSE: Final = timedelta(minutes=30)
_LONGEST_ANSWER_S: Final = 10.0
_SHORTEST_ANSWER_S: Final = 0.1
_NO_FORECAST: Final = "NO_INTENSITY_DATA"
_PASSING: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL"}
) | {"UNIMPLEMENTED"}
"""Codes of failures that may be over soon, or are no fault of the job; any other is the caller's to mend."""


@dataclass(frozen=True, slots=True)
class Course:
    """What to do now.

    Attributes:
        run: Whether the job runs.
        until: When to ask again at the latest; None: not again, it runs to its end.
        why: In words, for people.
        plan: The plan that is followed, if any.
    """

    run: bool
    until: datetime | None
    why: str
    plan: Plan | None = None


class Pacer:
    """Follows the cleanest plan for one job, and plans anew as forecasts change.

    From `deadline` less the work that is left (and a small margin) on, it says "run", whatever the service
    says and whether or not it can be reached.

    Args:
        job: What is to be run; `deadline` is set. `duration` is the work that there is in all.
        ask: Plans a job, as `client.carbon.plan` does, in at most so many seconds.
        at_latest: Whether it waits for the latest start while there is no forecast, or nobody to ask; else
            it runs at once.
    """

    def __init__(
        self, job: PlannedJob, ask: Callable[[PlannedJob, float], Plan], *, at_latest: bool = False
    ) -> None:
        if job.deadline is None:
            raise ValueError("a job that is paced has a deadline")
        self._job = job
        self._ask = ask
        self._at_latest = at_latest
        self._deadline = job.deadline
        self._work = _span(job.duration)
        self._plan: Plan | None = None
        self._fault = ""
        self._ask_at: datetime | None = None
        self._edge: datetime | None = None
        self._pause: timedelta | None = None
        self._least = max(_SHORTEST_PAUSE, _span(job.min_chunk or 0.0))
        self._running = False

    def latest_start(self, worked: timedelta = timedelta(0)) -> datetime:
        """Return the last moment at which the rest of the work can begin, with a margin."""
        left = self._work - worked
        return self._deadline - left - min(LONGEST_MARGIN, left * _MARGIN)

    def course(self, now: datetime, *, worked: timedelta, started: bool) -> Course:
        """Return what to do at *now*.

        Args:
            now: Present time, with a zone.
            worked: Time that the job has run so far.
            started: Whether it has begun.

        Raises:
            AegisApiError: Before the start: the service refuses the job for good; for example its zone.
        """
        course = self._decided(now, worked, started=started)
        self._running = course.run
        return course

    def _decided(self, now: datetime, worked: timedelta, *, started: bool) -> Course:
        latest = self.latest_start(worked)
        if worked >= self._work:
            return Course(True, None, "it runs longer than was said")
        if started and not self._job.interruptible:
            return Course(True, None, "it cannot be interrupted", self._plan)
        if now >= latest:
            return Course(True, None, "latest start", self._plan)
        if self._ask_at is None or now >= min(self._ask_at, self._edge or self._ask_at):
            # Also before it stops: the newest forecast has the last word. Not before it starts: a start that
            # is always a moment away would never come.
            self._renew(now, worked, started=started)
        if self._plan is None:
            return self._without_plan(now, latest)
        return self._follow(self._plan, now, latest)

    def _renew(self, now: datetime, worked: timedelta, *, started: bool) -> None:
        if self._pause is None:
            pause = (self.latest_start() - now) / _PLANS_PER_WAIT
            self._pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, pause))
        self._ask_at, self._edge = now + self._pause, None
        rest = replace(self._job, duration=self._work - worked, earliest_start_time=now)
        try:
            self._plan, self._fault = self._ask(rest, self._patience_s(now, worked)), ""
        except AegisApiError as error:
            if error.reason == _NO_FORECAST:
                self._plan = None
            elif error.code not in _PASSING and not started:
                raise
            # An outage leaves the plan as it was.
            self._fault = error.reason or error.code

    def _patience_s(self, now: datetime, worked: timedelta) -> float:
        """Return how long the service may take for its answer: not beyond the latest start."""
        return min(
            _LONGEST_ANSWER_S, max(_SHORTEST_ANSWER_S, (self.latest_start(worked) - now).total_seconds())
        )

    def _without_plan(self, now: datetime, latest: datetime) -> Course:
        if not self._at_latest:
            return Course(True, self._ask_at if self._job.interruptible else None, f"no plan: {self._fault}")
        return Course(False, min(self._ask_at or now, latest), f"no plan yet: {self._fault}")

    def _follow(self, plan: Plan, now: datetime, latest: datetime) -> Course:
        again = min(self._ask_at or latest, latest)
        for span in plan.spans:
            if span.start_time is None or span.end_time is None or now >= span.end_time:
                continue
            # What runs is not stopped for a pause that is shorter than it has to run between two stops.
            waits = span.start_time - now > (self._least if self._running else timedelta(0))
            edge, why = (
                (span.start_time, "waits for cleaner power") if waits else (span.end_time, "clean power")
            )
            self._edge = None if waits else edge
            return Course(not waits, min(again, edge), why, plan)
        # The plan is over, and there is work left: what is left was more than was planned.
        self._ask_at = now
        return Course(True, now + _SHORTEST_PAUSE, "the plan is over", plan)


def _span(value: float | timedelta) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
