"""Durations and moments of the command line mean what people expect, or are refused with examples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from aegis_client.cli.times import ahead_of, duration_s, moment_of, since_of
from aegis_client.errors import UsageError

NOW = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)  # 23:30 in Berlin


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("90", NOW + timedelta(seconds=90)),
        ("2h", NOW + timedelta(hours=2)),
        ("+1h30m", NOW + timedelta(hours=1.5)),
        ("in 2 h", NOW + timedelta(hours=2)),
        ("today 23:50", utc("2026-11-30 22:50")),
        ("Tomorrow 6:00", utc("2026-12-01 05:00")),
        ("tomorrow", utc("2026-11-30 23:00")),
        ("tomorrow 06:00Z", utc("2026-12-01 06:00")),
        ("2026-12-01T06:00:00Z", utc("2026-12-01 06:00")),
        ("2026-12-01 06:00+02:00", utc("2026-12-01 04:00")),
        ("2026-07-01T06:00", utc("2026-07-01 04:00")),
        ("2026-12-01", utc("2026-11-30 23:00")),
    ],
)
def test_a_moment_is_read_as_people_write_it(text: str, meant: datetime) -> None:
    assert moment_of(text, "--deadline", now=NOW) == meant


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("36h ago", NOW - timedelta(hours=36)),
        ("yesterday", utc("2026-11-29")),
        ("2026-11-01", utc("2026-11-01")),
        ("2026-11-01T00:00+01:00", utc("2026-10-31 23:00")),
    ],
)
def test_a_look_back_counts_back_and_in_utc(text: str, meant: datetime) -> None:
    assert since_of(text, "--since", now=NOW) == meant


@pytest.mark.parametrize(
    "text",
    [
        "soon",
        "18:00",
        "tomorrow 25:00",
        "0001-01-01T00:00+05:00",
        "2026-13-01",
        "1h x",
        "9e99d",
        "nan",
        "-5",
        "11y",
    ],
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"--deadline .* is no moment; for example 2h .*tomorrow 06:00"):
        moment_of(text, "--deadline", now=NOW)
    with pytest.raises(UsageError, match=r"--since .* is no moment; for example 7d"):
        since_of(text, "--since", now=NOW)
    with pytest.raises(UsageError, match=r"--timeout .* is no duration; for example 90s"):
        duration_s(text, "--timeout")


@pytest.mark.usefixtures("berlin")
def test_a_start_that_is_past_is_told_what_it_means() -> None:
    assert ahead_of("now", "--not-before", now=NOW) == NOW
    with pytest.raises(UsageError, match=r"'yesterday' is past: it means 2026-11-28 23:00Z; leave it out"):
        ahead_of("yesterday", "--not-before", now=NOW)
