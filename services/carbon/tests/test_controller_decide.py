"""What is done with a Job: it is started once, never late, and never against somebody else's will."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from aegis_carbon.controller.domain.case import Known
from aegis_carbon.controller.domain.job import Job
from aegis_carbon.controller.domain.record import RECORD, Phase
from aegis_carbon.controller.domain.reservations import Refused, State
from aegis_carbon.testing.job_track import CREATED, HOUR, MINUTE, RULES, Track, a_job, a_signal
from aegis_common.reservation_holder import Signal


def test_a_job_that_was_created_suspended_waits_for_its_signal_and_starts_once() -> None:
    track = Track(a_job())

    track.look()
    assert track.look().wanted is not None
    track.reserve()
    track.look()
    assert (Phase.WAITING, True) == track.stands
    assert "reservations/r" == track.record.reservation
    track.reserve(State.RUNNING, a_signal(1, Signal.START), latest=None)
    track.look(CREATED + 3 * HOUR)
    assert (Phase.RUNNING, False) == track.stands
    for minute in range(5):
        assert track.look(CREATED + 3 * HOUR + minute * MINUTE).change is None
    assert (1, ["WaitingForCleanPower", "Started"]) == (track.starts, track.told)


def test_a_job_that_has_not_started_is_suspended_at_once() -> None:
    track = Track(a_job(suspended=False))

    track.look()

    assert (Phase.WAITING, True) == track.stands
    assert track.look().wanted is not None


def test_a_running_job_is_left_alone_and_told_how_to_wait_the_next_time() -> None:
    track = Track(a_job(suspended=False, started=True))

    found = track.look()

    assert (None, None) == (found.change, found.wanted)
    assert "spec.suspend: true" in found.notes[0].message


def test_a_running_job_that_may_be_interrupted_is_suspended_when_its_reservation_waits() -> None:
    track = Track(a_job(suspended=False, started=True, interruptible="true"))

    assert track.look().wanted is not None
    assert not track.job.suspended
    track.reserve()
    track.look()

    assert (Phase.WAITING, True) == track.stands


def test_a_running_job_that_may_be_interrupted_goes_on_when_its_reservation_runs() -> None:
    track = Track(a_job(suspended=False, started=True, interruptible="true"))
    track.reserve(State.RUNNING, a_signal(1, Signal.START), latest=None)

    track.look()

    assert (Phase.RUNNING, False) == track.stands
    assert 0 == track.starts


def test_without_a_word_it_starts_at_the_earlier_latest_start_and_the_late_signal_has_no_effect() -> None:
    track = Track(a_job())
    track.reserve()
    track.look()
    track.look()
    latest = CREATED + 6.5 * HOUR

    track.look(latest - MINUTE)
    assert (Phase.WAITING, True) == track.stands
    track.look(latest)
    assert (Phase.RUNNING, False) == track.stands
    track.reserve(State.RUNNING, a_signal(1, Signal.START), latest=None)
    track.look(latest + MINUTE)
    assert 1 == track.starts
    assert track.record.whole


@pytest.mark.parametrize("forgets", [False, True])
def test_it_is_suspended_and_goes_on_by_itself_with_or_without_a_memory(forgets: bool) -> None:
    track = Track(a_job(interruptible="true"))
    track.reserve(State.RUNNING, a_signal(1, Signal.START), latest=None)
    track.look()
    track.look()
    paused = CREATED + HOUR / 2
    seven = CREATED + 7 * HOUR
    track.reserve(State.SUSPENDED, a_signal(2, Signal.SUSPEND, seven), latest=seven)
    track.look(paused)
    assert (Phase.SUSPENDED, True) == track.stands
    assert HOUR / 2 - RULES.pod_start == track.record.worked
    if forgets:
        # The controller starts anew, and the carbon service is dead.
        track.memory, track.known = None, Known(trouble="no answer")

    track.look(CREATED + 7 * HOUR - MINUTE)
    assert track.job.suspended
    track.look(CREATED + 7 * HOUR)
    assert (Phase.RUNNING, False) == track.stands
    assert (2, 2) == (track.record.token, track.starts)


def test_a_change_that_fails_is_decided_again_and_takes_effect_once() -> None:
    track = Track(a_job())
    track.reserve()
    track.look()
    track.look()
    track.reserve(State.RUNNING, a_signal(1, Signal.START), latest=None)

    assert track.look(fails=True).change is not None
    assert track.look(fails=True).change is not None
    track.look()

    assert 1 == track.starts
    assert track.look().change is None


@pytest.mark.parametrize(
    ("on_missing", "max_hold", "starts"),
    [
        ("run_now", "", CREATED + RULES.grace),
        ("hold", "2h", CREATED + 2 * HOUR),
        ("run_at_latest_start", "", CREATED + 7 * HOUR - MINUTE - timedelta(seconds=30)),
    ],
)
def test_without_any_reservation_it_waits_as_on_missing_says_and_never_too_long(
    on_missing: str, max_hold: str, starts: datetime
) -> None:
    track = Track(a_job(on_missing=on_missing, max_hold=max_hold), Known(trouble="no route to host"))
    track.look()

    track.look(starts - timedelta(seconds=1))
    assert (Phase.WAITING, True) == track.stands
    track.look(starts)

    assert (Phase.RELEASED, False) == track.stands
    assert track.look(starts + HOUR).change is None


def test_while_carbon_is_away_a_new_job_is_not_suspended_unless_it_says_so() -> None:
    away = Known(trouble="no route to host")
    track, patient = (
        Track(a_job(suspended=False), away),
        Track(a_job(suspended=False, on_missing="hold", max_hold="1h"), away),
    )

    assert track.look().change is None
    patient.look()

    assert (["CarbonUnavailable"], True) == (track.told, patient.job.suspended)


def test_a_refused_wish_runs_at_once_and_says_why() -> None:
    track = Track(a_job(zone="XX"))
    track.look()
    track.known = Known(refusal=Refused("UNKNOWN_ZONE", "zone XX is unknown; did you mean XK?"))

    found = track.look()

    assert (Phase.RELEASED, False) == track.stands
    assert "did you mean XK?" in found.notes[0].message


@pytest.mark.parametrize(("held", "resumed"), [(True, True), (False, False)])
def test_a_bad_annotation_lets_a_job_run_if_it_waits_for_us(held: bool, resumed: bool) -> None:
    track = Track(a_job(duration="soon", generation=1 if held else 2))

    found = track.look()

    assert ("BadAnnotation", resumed) == (found.notes[0].reason, not track.job.suspended)
    assert "aegis.dev/duration: 'soon'" in found.notes[0].message
    assert track.look().change is None


def test_a_mended_annotation_is_followed_again() -> None:
    track = Track(a_job(suspended=False, duration="soon", interruptible="true"))
    track.look()
    track.job = replace(track.job, started=True)

    track.edit(duration="1h")

    assert track.look().wanted is not None


def test_what_somebody_else_suspended_is_never_resumed() -> None:
    track = Track(a_job(generation=2))

    track.look()
    track.look(CREATED + 8 * HOUR)

    assert (0, True) == (track.starts, track.job.suspended)


def test_what_somebody_else_suspends_or_resumes_meanwhile_is_left_so() -> None:
    track = Track(a_job(interruptible="true"))
    track.reserve()
    track.look()
    track.look()
    track.job = replace(track.job, suspended=False, started=True)
    track.look()
    assert (Phase.RUNNING, False) == track.stands
    track.reserve(State.SUSPENDED, a_signal(2, Signal.SUSPEND, CREATED + 6 * HOUR), latest=None)
    track.look(CREATED + HOUR)
    assert (Phase.RUNNING, False) == track.stands
    track.job = replace(track.job, suspended=True, started=False)
    track.look()

    track.look(CREATED + 8 * HOUR)
    assert (Phase.RELEASED, True) == track.stands
    assert track.told[-2:] == ["ResumedByAnother", "SuspendedByAnother"]


@pytest.mark.parametrize("suspended", [True, False])
def test_a_wish_that_is_taken_back_leaves_the_job_as_it_was(suspended: bool) -> None:
    track = Track(a_job(suspended=suspended))
    track.look()
    assert track.job.suspended

    track.edit(deadline=None, duration=None)
    track.look()

    assert (suspended, False) == (track.job.suspended, RECORD in track.job.annotations)


def test_a_changed_wish_gets_a_reservation_of_its_own() -> None:
    track = Track(a_job())
    track.reserve()
    track.look()
    track.look()

    track.edit(deadline="4h")
    track.look()

    assert track.look().wanted is not None
    assert ("", True) == (track.record.reservation, track.job.suspended)
    track.look(CREATED + 3 * HOUR)
    assert not track.job.suspended


def test_a_reservation_that_ended_while_it_waited_starts_the_job() -> None:
    track = Track(a_job())
    track.reserve()
    track.look()
    track.look()

    track.reserve(State.CANCELLED)
    track.look()

    assert (Phase.RELEASED, False) == track.stands


@pytest.mark.parametrize("item", [a_job(), a_job(suspended=False)])
def test_a_job_of_another_manager_or_of_no_tenant_runs_as_without_us(item: Job) -> None:
    managed = Track(replace(item, managed_by="Kueue (queue q)"))
    unmapped = Track(item)

    assert managed.look().change is None
    unmapped.look(tenant="")

    assert not unmapped.job.suspended
    assert (["ManagedByAnother"], ["NamespaceNotMapped"]) == (managed.told, unmapped.told)


def test_a_record_that_cannot_be_read_is_ours_all_the_same() -> None:
    track = Track(a_job(generation=3, reservation='{"schemaVersion": 2}'))

    track.look()
    assert (Phase.WAITING, True) == track.stands


def test_a_wish_that_is_changed_and_changed_back_is_another_one() -> None:
    track = Track(a_job())
    track.look()
    first = track.look().wanted
    track.edit(deadline="9h")
    track.look(CREATED + MINUTE / 3)
    track.edit(deadline="8h")
    track.look(CREATED + MINUTE / 2)
    again = track.look().wanted

    assert first is not None
    assert again is not None
    assert (first.digest, True) == (again.digest, first.key != again.key)


def test_a_misspelt_annotation_is_named() -> None:
    track = Track(a_job(dead_line="8h"))

    assert "aegis.dev/dead-line" in track.look().notes[-1].message


def test_a_job_with_no_slack_is_not_suspended() -> None:
    track = Track(a_job(suspended=False, deadline="1h"))

    assert track.look().change is None
    assert ["NoSlack"] == track.told


def test_a_job_that_runs_past_its_deadline_says_so_once_it_has() -> None:
    track = Track(a_job())
    track.reserve(State.RUNNING, a_signal(1, Signal.DEADLINE), latest=None)
    track.look()
    track.look()

    assert CREATED + 8 * HOUR == track.look(CREATED + 7.5 * HOUR).again
    assert "DeadlineMissed" in [note.reason for note in track.look(CREATED + 8 * HOUR).notes]


def _storm(seed: int) -> tuple[Track, timedelta]:
    """Eight hours of signals that come late, twice, out of order or never, failed changes and restarts."""
    dice = random.Random(seed)  # noqa: S311  # repeats itself
    track = Track(a_job(interruptible=dice.choice(["true", "false"]), suspended=dice.random() < 0.5))
    token, ran, failed = 0, timedelta(0), False
    for _ in range(8 * 60):
        if not track.job.suspended and RECORD in track.job.annotations:
            ran += MINUTE
        if dice.random() < 0.2:
            token += dice.choice([-1, 0, 1, 1])
            kind = dice.choice([Signal.START, Signal.SUSPEND, Signal.SUSPEND, Signal.RESUME])
            latest = dice.choice([None, CREATED + 7.5 * HOUR])
            track.reserve(State.RUNNING, a_signal(max(1, token), kind, latest), latest=latest)
        elif dice.random() < 0.1:
            track.known = Known(trouble="no answer")
        if dice.random() < 0.1:
            track.memory = None
        failed = not failed and dice.random() < 0.3
        track.look(track.now + MINUTE, fails=failed)
    return track, ran


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_it_has_run_for_its_duration_by_the_deadline_and_started_once_for_each_stop(
    seed: int,
) -> None:
    track, ran = _storm(seed)

    # It is looked at every minute here, and a change may fail once.
    assert ran >= HOUR - 2 * MINUTE
    assert 1 + track.record.stops >= track.starts
