"""Annotations of Jobs: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aegis_carbon.domain.job_wish import PREFIX, InvalidAnnotation, JobWish, is_wish, job_wish, unknown_wishes

CREATED = datetime(2026, 12, 1, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


def wish(**annotations: str) -> JobWish:
    named = {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
    return job_wish({"other.dev/deadline": "soon", **named}, created=CREATED)


def test_a_deadline_is_a_time_from_the_creation() -> None:
    found = wish(deadline="8h", duration="1h30m")

    assert JobWish(deadline=CREATED + 8 * HOUR, duration=1.5 * HOUR) == found


@pytest.mark.parametrize("text", ["2026-12-02T06:00:00+02:00", "2026-12-02T04:00:00Z"])
def test_a_deadline_is_a_moment_in_utc(text: str) -> None:
    assert datetime(2026, 12, 2, 4, tzinfo=UTC) == wish(deadline=text, duration="1h").deadline


def test_all_annotations_are_read() -> None:
    found = wish(
        deadline="1d",
        duration="4h",
        zone="DE, FR",
        interruptible="true",
        min_chunk="30m",
        pool="gpu",
        on_missing="hold",
        max_hold="2h",
    )

    assert ("DE", "FR") == found.zones
    assert (True, HOUR / 2) == (found.interruptible, found.min_chunk)
    assert ("gpu", "hold", 2 * HOUR) == (found.pool, found.on_missing, found.max_hold)


def test_the_latest_start_needs_no_service() -> None:
    found = wish(deadline="8h", duration="2h").latest_start(timedelta(minutes=1))

    assert CREATED + 6 * HOUR - timedelta(minutes=1) == found


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("deadline", "tomorrow", "with its offset"),
        ("deadline", "2026-12-02T04:00:00", "with its offset"),
        ("deadline", "0001-01-01T00:00:00+14:00", "with its offset"),
        ("deadline", "2026-12-01T20:30:00Z", "less than the duration"),
        ("deadline", "2026-12-09T20:00:00Z", "more than 7 days"),
        ("deadline", "", "with its offset"),
        ("duration", "0h", "above 0"),
        ("duration", "1 hour", "8h, 90m"),
        ("duration", "-1h", "8h, 90m"),
        ("duration", "8d", "at most 7d"),
        ("zone", "DE,", "commas"),
        ("zone", "DE,DE", "once"),
        ("zone", "../DE", "commas"),
        ("interruptible", "yes", '"true" or "false"'),
        ("min_chunk", "10m", "interruptible"),
        ("pool", "GPU", "lower-case"),
        ("on_missing", "wait", "run_now"),
        ("on_missing", "hold", "max-hold"),
        ("max_hold", "1h", "on-missing: hold"),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_value_and_the_remedy(
    name: str, value: str, remedy: str
) -> None:
    with pytest.raises(InvalidAnnotation) as caught:
        wish(**{"deadline": "8h", "duration": "1h", name: value})

    assert remedy in caught.value.message
    assert caught.value.metadata["value"] in caught.value.message
    assert caught.value.metadata["annotation"] in caught.value.message


@pytest.mark.parametrize("name", ["deadline", "duration"])
def test_a_job_with_one_of_the_two_asks_and_is_told_of_the_other(name: str) -> None:
    annotations = {PREFIX + name: "1h"}

    assert is_wish(annotations)
    with pytest.raises(InvalidAnnotation, match="is missing"):
        job_wish(annotations, created=CREATED)


def test_a_job_without_them_is_left_alone() -> None:
    assert not is_wish({"batch.kubernetes.io/job-tracking": "", PREFIX + "zone": "DE"})


def test_a_misspelt_annotation_is_found() -> None:
    annotations = {
        PREFIX + "interuptible": "true",
        PREFIX + "zone": "DE",
        PREFIX + "reservation": "x",
        "a/b": "",
    }

    assert [PREFIX + "interuptible"] == unknown_wishes(annotations, written=frozenset({"reservation"}))
