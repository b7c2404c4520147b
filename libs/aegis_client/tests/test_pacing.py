"""When a job that waits for clean power runs: by its plan, and never too late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aegis_client import AegisApiError, Plan, PlannedJob, PlanSpan
from aegis_client.errors import Unavailable
from aegis_client.pacing import Course, Pacer

START = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def plan(*hours: tuple[float, float]) -> Plan:
    spans = tuple(PlanSpan(start_time=START + a * HOUR, end_time=START + b * HOUR) for a, b in hours)
    return Plan(
        zone="zones/DE",
        spans=spans,
        g_per_kwh=100,
        now_g_per_kwh=200,
        saving=0.5,
        saving_low=None,
        saving_high=None,
        latest_start_time=None,
        deadline=None,
    )


class Service:
    """Gives the plans, and raises the errors, that it is told."""

    def __init__(self, *answers: Plan | Exception) -> None:
        self.answers = list(answers)
        self.jobs: list[PlannedJob] = []
        self.timeouts: list[float] = []

    def __call__(self, job: PlannedJob, timeout_s: float) -> Plan:
        self.jobs.append(job)
        self.timeouts.append(timeout_s)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def away() -> AegisApiError:
    return Unavailable("nobody answers", code="UNAVAILABLE")


def no_forecast() -> AegisApiError:
    return Unavailable("no data", code="UNAVAILABLE", reason="NO_INTENSITY_DATA")


def pacer(service: Service, *, interruptible: bool = False, at_latest: bool = False) -> Pacer:
    job = PlannedJob(duration=HOUR, deadline=START + 8 * HOUR, interruptible=interruptible)
    return Pacer(job, service, at_latest=at_latest)


def simulated(
    found: Pacer, *, step: timedelta = MINUTE, work: timedelta = HOUR
) -> tuple[list[tuple[datetime, bool]], datetime]:
    """Follow the pacer as the command does; return when it changed, and when the work was done."""
    now, worked, started, changes = START, timedelta(0), False, list[tuple[datetime, bool]]()
    course: Course | None = None
    while worked < work:
        if course is None or (course.until is not None and now >= course.until):
            course = found.course(now, worked=worked, started=started)
        if not changes or changes[-1][1] != course.run:
            changes.append((now, course.run))
        started |= course.run
        worked += step if course.run else timedelta(0)
        now += step
    return changes, now


def test_a_job_waits_for_its_window_and_runs_to_its_end() -> None:
    service = Service(plan((3, 4)))

    changes, end = simulated(pacer(service))

    assert [(START, False), (START + 3 * HOUR, True)] == changes
    assert START + 4 * HOUR == end


def test_a_job_that_may_stop_follows_its_stretches() -> None:
    service = Service(plan((1, 1.5), (5, 5.5)))

    changes, end = simulated(pacer(service, interruptible=True))

    assert [START + hours * HOUR for hours in (0, 1, 1.5, 5)] == [moment for moment, _ in changes]
    assert START + 5.5 * HOUR == end


def test_forecasts_change_and_plans_with_them() -> None:
    service = Service(plan((6, 7)), plan((6, 7)), plan((2, 3)))

    changes, _ = simulated(pacer(service))

    assert START + 2 * HOUR == changes[-1][0]
    assert len(service.jobs) > 3
    assert START < (service.jobs[1].earliest_start_time or START) < START + HOUR


def test_what_is_left_is_what_is_planned() -> None:
    service = Service(plan((0, 0.5), (6, 6.5)))

    simulated(pacer(service, interruptible=True))

    left = [job.duration for job in service.jobs if isinstance(job.duration, timedelta)]
    assert left == sorted(left, reverse=True)
    assert left[-1] <= HOUR / 2


@pytest.mark.parametrize("interruptible", [False, True])
@pytest.mark.parametrize("error", [away(), no_forecast()])
def test_nobody_to_ask_misses_no_deadline(error: AegisApiError, *, interruptible: bool) -> None:
    changes, end = simulated(
        pacer(Service(error), interruptible=interruptible, at_latest=True), step=MINUTE / 6
    )

    assert changes[-1][1]
    assert START + 6.9 * HOUR < changes[-1][0]
    assert end <= START + 8 * HOUR


def test_nobody_to_ask_starts_at_once_by_default() -> None:
    assert simulated(pacer(Service(no_forecast())))[0] == [(START, True)]


def test_a_service_that_dies_leaves_the_plan_that_it_gave() -> None:
    changes, _ = simulated(pacer(Service(plan((3, 4)), away())))

    assert START + 3 * HOUR == changes[-1][0]


@pytest.mark.parametrize("spans", [((7.5, 8.5),), ((90, 91),), ()])
def test_a_plan_that_would_be_late_is_not_believed(spans: tuple[tuple[float, float], ...]) -> None:
    _, end = simulated(pacer(Service(plan(*spans))), step=MINUTE / 6)

    assert end <= START + 8 * HOUR


def test_a_job_that_stops_is_never_late_either() -> None:
    service = Service(plan((0, 0.25), (7.9, 8.65)))

    _, end = simulated(pacer(service, interruptible=True), step=MINUTE / 6)

    assert end <= START + 8 * HOUR


def test_what_runs_longer_than_was_said_is_not_stopped_any_more() -> None:
    changes, end = simulated(pacer(Service(plan((1, 1.5), (3, 3.5))), interruptible=True), work=3 * HOUR)

    assert START + 3 * HOUR == changes[-1][0]
    assert START + 5.5 * HOUR == end


def test_a_job_that_the_service_refuses_is_refused_before_it_starts() -> None:
    unknown = AegisApiError("zone 'XX' is not known", code="NOT_FOUND", reason="UNKNOWN_ZONE")

    with pytest.raises(AegisApiError, match="is not known"):
        pacer(Service(unknown)).course(START, worked=timedelta(0), started=False)


def test_a_job_that_cannot_end_in_time_runs_at_once() -> None:
    found = pacer(Service(away()), at_latest=True).course(
        START + 7.5 * HOUR, worked=timedelta(0), started=False
    )

    assert (True, "latest start") == (found.run, found.why)


def test_the_service_is_not_waited_for_beyond_the_latest_start() -> None:
    service = Service(away())
    found = pacer(service, at_latest=True)
    for moment in (START, START + 3 * HOUR, found.latest_start() - timedelta(seconds=2)):
        found.course(moment, worked=timedelta(0), started=False)

    assert [10, 10] == service.timeouts[:2]
    assert 0 < service.timeouts[2] <= 2


def test_the_newest_forecast_has_the_last_word_before_it_stops() -> None:
    service = Service(plan((0, 0.5), (6, 6.5)), plan((0, 1)))

    changes, end = simulated(pacer(service, interruptible=True))

    assert [(START, True)] == changes
    assert START + HOUR == end


def test_a_start_that_is_always_a_moment_away_comes() -> None:
    class Later(Service):
        def __call__(self, job: PlannedJob, timeout_s: float) -> Plan:
            self.jobs.append(job)
            assert job.earliest_start_time is not None
            hours = (job.earliest_start_time - START) / HOUR
            return plan((hours + 0.05, hours + 1.05))

    changes, _ = simulated(pacer(Later(plan())))

    assert changes[-1][0] < START + HOUR / 2


def test_what_runs_is_not_stopped_for_a_moment() -> None:
    class Soon(Service):
        def __call__(self, job: PlannedJob, timeout_s: float) -> Plan:
            assert job.earliest_start_time is not None
            hours = (job.earliest_start_time - START) / HOUR
            return plan((hours + (0.05 if hours else 0), hours + 0.3), (7, 8))

    job = PlannedJob(duration=HOUR, deadline=START + 8 * HOUR, interruptible=True, min_chunk=5 * MINUTE)

    changes, _ = simulated(Pacer(job, Soon(plan())))

    assert [(START, True)] == changes
