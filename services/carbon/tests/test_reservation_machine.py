"""The steps of a reservation: what time, its holder and its owner make of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from aegis_carbon.domain.job import Interruption, Job, Span
from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.errors import ReservationEnded, StaleToken
from aegis_carbon.domain.reservations.reservation import (
    Event,
    Kind,
    Reason,
    Reservation,
    State,
    margin_of,
)

NOON = datetime.fromisoformat("2026-03-04T12:00:00+00:00")
HOUR = timedelta(hours=1)
KEEP = timedelta(days=7)
MARGIN = timedelta(seconds=10)
LATE = MARGIN / 2


def at(hours: float) -> datetime:
    return NOON + hours * HOUR


def made(*spans: tuple[float, float], **fields: Any) -> Reservation:
    duration = sum((end - start for start, end in spans), 0.0) * HOUR
    base = Reservation(
        tenant="acme",
        id="r1",
        zones=("DE",),
        duration=duration,
        earliest=NOON,
        deadline=at(8),
        created=NOON,
        margin=MARGIN,
        spans=tuple(Span(at(start), at(end)) for start, end in spans),
    )
    return replace(base, **fields)


def due(item: Reservation, hours: float) -> Reservation:
    found = machine.due(item, now=at(hours), keep=KEEP)
    assert found is not None
    return found


def report(item: Reservation, event: Event, hours: float, *, token: int, **told: Any) -> Reservation | None:
    told = {"holder": "", "work_done": None, "at": at(hours), "now": at(hours), **told}
    return machine.reported(item, event, token=token, keep=KEEP, **told)


def known(item: Reservation | None) -> Reservation:
    assert item is not None
    return item


def test_nothing_is_due_before_the_planned_moment() -> None:
    assert machine.due(made((2, 3)), now=at(1.99), keep=KEEP) is None


def test_it_is_told_to_start_at_the_planned_moment() -> None:
    started = due(made((2, 3)), 2)

    assert started.signal is not None
    assert (State.RUNNING, Kind.START, 1) == (started.state, started.signal.kind, started.signal.token)
    assert (Span(at(2), at(3)),) == started.spans


def test_a_clock_that_jumped_past_the_latest_start_makes_it_start_at_once_and_to_the_end() -> None:
    parts = made((1, 2), (5, 6), interruption=Interruption())
    started = due(parts, 7)

    assert started.signal is not None
    assert (Kind.DEADLINE, Reason.LATEST_START) == (started.signal.kind, started.signal.reason)
    assert (Span(at(7), at(9)),) == started.spans


def test_a_clock_that_is_set_back_gives_no_second_start() -> None:
    started = due(made((2, 3)), 2)

    assert machine.due(started, now=at(-5), keep=KEEP) is None


def test_what_may_be_interrupted_stops_goes_on_and_ends_with_rising_tokens() -> None:
    item = made((1, 2), (4, 6), interruption=Interruption())
    signals = []
    for hours in (1, 2, 4):
        item = due(item, hours)
        assert item.signal is not None
        signals.append((item.signal.kind, item.signal.token))

    assert [(Kind.START, 1), (Kind.SUSPEND, 2), (Kind.RESUME, 3)] == signals
    assert HOUR == item.done
    assert item.done_by(at(6)) == item.duration


def test_a_resume_costs_its_overhead_of_the_time_that_is_left() -> None:
    overhead = timedelta(minutes=6)
    item = made((1, 2), (4, 5.1), interruption=Interruption(resume_overhead=overhead), duration=2 * HOUR)
    paused = due(due(item, 1), 2)

    assert at(8) - LATE - HOUR - overhead == paused.latest_start
    assert due(paused, 4).done_by(at(5.1)) == 2 * HOUR


def test_a_suspension_is_not_planned_past_the_latest_start() -> None:
    item = due(made((1, 2), (7, 8), interruption=Interruption()), 1)
    paused = due(item, 2)  # the last span would end at the deadline, without the margin

    assert (Span(paused.latest_start, at(8) - LATE),) == paused.spans


def test_an_end_that_nobody_tells_is_assumed_and_mended_by_a_late_report() -> None:
    over = due(due(made((2, 3)), 2), 3.01)
    told = known(report(over, Event.FINISHED, 3.5, token=1))

    assert (State.FINISHED, True, at(3)) == (over.state, over.end_assumed, over.ended)
    assert at(3.01) + KEEP == over.expires
    assert (False, at(3.5)) == (told.end_assumed, told.ended)


def test_a_holder_that_starts_by_itself_has_the_start_token() -> None:
    begun = known(report(made((2, 3)), Event.STARTED, 1, token=1, holder="a"))

    assert begun.signal is not None
    assert (State.RUNNING, 1, Reason.HOLDER) == (begun.state, begun.signal.token, begun.signal.reason)
    assert (Span(at(1), at(2)),) == begun.spans


def test_a_second_holder_of_the_same_start_is_refused() -> None:
    begun = known(report(due(made((2, 3)), 2), Event.STARTED, 2, token=1, holder="a"))

    with pytest.raises(StaleToken, match="'a' holds this work"):
        report(begun, Event.STARTED, 2, token=1, holder="b")


def test_a_report_on_an_older_signal_than_the_one_that_holds_resumes_nothing() -> None:
    paused = due(due(made((1, 2), (4, 5), interruption=Interruption()), 1), 2)

    with pytest.raises(StaleToken):
        report(paused, Event.RESUMED, 3, token=1)


def test_what_has_ended_takes_no_start() -> None:
    gone = known(machine.cancelled(made((2, 3)), now=at(1), keep=KEEP))

    assert machine.cancelled(gone, now=at(2), keep=KEEP) is None
    with pytest.raises(ReservationEnded):
        report(gone, Event.STARTED, 2, token=1)


def test_a_late_stretch_keeps_the_pauses_that_were_planned() -> None:
    late = due(made((1, 2), (4, 6), interruption=Interruption()), 1.5)

    assert (Span(at(1.5), at(2.5)), Span(at(4), at(6))) == late.spans


def test_a_stretch_that_runs_into_the_next_one_goes_on_without_a_resume() -> None:
    overhead = Interruption(resume_overhead=timedelta(minutes=6))
    late = due(made((1, 2), (2.5, 3.5), (6, 6.5), interruption=overhead), 1.75)

    assert (Span(at(1.75), at(3.75)), Span(at(6), at(6.6))) == late.spans


def test_where_a_pause_has_no_time_left_the_stretch_goes_on_to_the_end() -> None:
    running = due(made((1, 2), (6, 7.9), interruption=Interruption()), 1)
    late = due(running, 6)  # the timer was dead: the holder has run on

    assert (State.FINISHED, True) == (late.state, late.end_assumed)
    running = due(made((1, 2), (3, 7.9), interruption=Interruption(), deadline=at(8)), 1)
    late = due(running, 3.95)

    assert (State.RUNNING, 1) == (late.state, late.token)
    assert (Span(at(1), at(1) + late.duration),) == late.spans


def test_a_start_with_another_token_than_that_of_the_start_is_refused() -> None:
    for item in (made((2, 3)), due(made((2, 3)), 2)):
        with pytest.raises(StaleToken):
            report(item, Event.STARTED, 2, token=2)


def test_the_same_report_again_changes_nothing_whatever_its_time() -> None:
    item = made((1, 2), (4, 6), interruption=Interruption())
    for event, hours, token in (
        (Event.STARTED, 1, 1),
        (Event.SUSPENDED, 2, 1),
        (Event.RESUMED, 4, 2),
        (Event.FINISHED, 6, 3),
    ):
        item = known(report(item, event, hours, token=token, holder="a"))

        assert report(item, event, hours + 0.1, token=token, holder="a") is None


def test_a_suspension_that_was_overtaken_by_a_resume_suspends_nothing() -> None:
    resumed = due(due(due(made((1, 2), (4, 6), interruption=Interruption()), 1), 2), 4)

    assert report(resumed, Event.SUSPENDED, 4.01, token=2) is None


def test_the_margin_is_a_tenth_of_the_slack_and_ten_seconds_at_most() -> None:
    def margin(slack: timedelta) -> timedelta:
        return margin_of(Job(earliest=NOON, deadline=at(1) + slack, duration=HOUR))

    assert timedelta(0) == margin(timedelta(0))
    assert timedelta(seconds=3) == margin(timedelta(seconds=30))
    assert timedelta(seconds=10) == margin(HOUR)
