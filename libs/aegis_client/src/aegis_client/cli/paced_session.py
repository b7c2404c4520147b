"""What `aegis carbon run` does: a command follows a pacer, while a person looks on."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Final, Protocol

import typer

from aegis_client.carbon_plans import Plan, PlannedJob
from aegis_client.cli.output import seconds, short
from aegis_client.cli.paced_ledger import CommandLedger
from aegis_client.cli.paced_process import PacedProcess
from aegis_client.cli.places import Place
from aegis_client.cli.sparkline import sparkline
from aegis_client.cli.state import CliState
from aegis_client.client import Client
from aegis_client.errors import AegisApiError
from aegis_client.pacing import Course
from aegis_client.reservation_forms import Reservation

_TICK_S: Final = 0.25
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SPARK: Final = 24
_DRAWN_IN_S: Final = 1.0


class Guide(Protocol):
    """Says whether the command runs: a `Pacer`, or a reservation."""

    def course(self, now: datetime, *, worked: timedelta, started: bool) -> Course:
        """Return what to do at *now*; see `Pacer.course`."""


class PacedSession:
    """Runs *process* as *guide* says, and shows how it stands."""

    def __init__(
        self, guide: Guide, process: PacedProcess, service: PlanSource, ledger: CommandLedger
    ) -> None:
        self._guide = guide
        self._process = process
        self._service = service
        self._ledger = ledger
        self._caught: list[int] = []
        self._course: Course | None = None
        self._line = _StatusLine()

    def run(self) -> int:
        with _catching(self._caught):
            while True:
                now = datetime.now(UTC)
                self._steer(now)
                code = self._process.wait(self._pause(now))
                while self._caught:
                    number = self._caught.pop(0)
                    if not self._process.started:
                        self._line.say("stopped before it was started")
                        return 128 + number
                    self._process.forward(number)
                    # Whoever sends a signal wants to see it obeyed, so it is not suspended any more.
                    self._course = Course(True, None, "a signal came")
                if code is not None:
                    self._line.say(f"ended with {code} after {seconds(self._process.worked)} of work")
                    if line := self._ledger.record(
                        self._process, self._service.zone, self._service.reservation
                    ):
                        self._line.say(line)
                    return code

    def _steer(self, now: datetime) -> None:
        course = self._course
        due = course is None or (course.until is not None and now >= course.until)
        if due or course is None:
            course = self._guide.course(now, worked=self._process.worked, started=self._process.started)
            self._course = course
        if course.run and not self._process.running:
            self._line.say(
                f"{'continues' if self._process.started else 'starts'}: {course.why}{_told(course)}"
            )
            self._process.run()
        elif not course.run and self._process.running:
            self._line.say(f"suspended: {course.why}{_told(course)}")
            self._process.suspend()
        elif not course.run:
            ahead = _ahead(course, now, started=self._process.started)
            self._line.show(f"{self._service.spark} {ahead}: {course.why}{_told(course)}".strip())

    def _pause(self, now: datetime) -> float:
        until = self._course.until if self._course else None
        if until is None:
            return _TICK_S
        return min(_TICK_S, max(0.01, (until - now).total_seconds()))


class _StatusLine:
    """One line on stderr that is written over, on a terminal; else a line whenever something changes."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        if self._live:
            columns = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{('aegis: ' + text)[:columns].ljust(min(len(self._shown), columns))}")
            sys.stderr.flush()
        elif not self._shown:
            typer.echo(f"aegis: {text}", err=True)
        self._shown = text or " "

    def say(self, text: str) -> None:
        if self._live and self._shown:
            self.show("")
            sys.stderr.write("\r")
        self._shown = ""
        typer.echo(f"aegis: {text}", err=True)


def _ahead(course: Course, now: datetime, *, started: bool) -> str:
    spans = course.plan.spans if course.plan else ()
    starts = [span.start_time for span in spans if span.start_time is not None and span.start_time > now]
    if not starts:
        return "waits"
    return f"{'goes on' if started else 'starts'} in {seconds(starts[0] - now)}"


def _told(course: Course) -> str:
    if course.plan is None:
        return ""
    plan = course.plan
    return f" ({short(plan.zone)}, {plan.g_per_kwh:.0f} gCO2e/kWh expected, {100 * plan.saving:.0f} % saved)"


class PlanSource:
    """Asks for plans, and keeps the series that goes with the last one, or with a reservation's.

    Args:
        state: How to reach the service.
        place: Where a job without zones runs; looked up by the first plan that gets an answer.
    """

    def __init__(self, state: CliState, place: Place) -> None:
        self._state = state
        self._place = place
        self._zone = ""
        self.zone = ""
        self.reservation = ""
        self.spark = ""

    def plan(self, job: PlannedJob, timeout_s: float) -> Plan:
        """Return the plan for *job*, in at most *timeout_s* seconds."""
        with self._state.client() as client:
            if self._place:
                self._zone = self._zone or self._place.zone(client)
                job = replace(job, zones=[self._zone])
            found = client.carbon.plan(job, timeout=timeout_s)
            self._draw(client, found)
            return found

    def follow(self, reservation: Reservation) -> None:
        """Take the zone and the series of a reservation's plan."""
        self.reservation = reservation.name
        if reservation.plan is not None:
            with self._state.client() as client:
                self._draw(client, reservation.plan)

    def _draw(self, client: Client, plan: Plan) -> None:
        self.zone = plan.zone
        with suppress(AegisApiError):  # it is only drawn
            expected = client.carbon.forecast(plan.zone, timeout=_DRAWN_IN_S)
            end = plan.deadline or datetime.now(UTC)
            slots = [slot for slot in expected.slots if slot.start_time is None or slot.start_time < end]
            self.spark = sparkline([slot.g_per_kwh for slot in slots], _SPARK)


@contextmanager
def _catching(caught: list[int]) -> Iterator[None]:
    """Collect signals instead of obeying them."""

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
