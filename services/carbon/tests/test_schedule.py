"""The scheduling rule, without any provider."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest

from aegis_carbon.domain.intensity import AverageIntensity, Intensity, MarginalIntensity, Quality, Signal
from aegis_carbon.domain.schedule import Decision, OnMissing, Reason, Verdict, decide

NOW = datetime(2026, 3, 4, 10, 12, tzinfo=UTC)
START = datetime(2026, 3, 4, 10, tzinfo=UTC)


def intensity(value: float, *, start: datetime = START, minutes: float = 30) -> AverageIntensity:
    end = start + timedelta(minutes=minutes)
    return AverageIntensity("GB", value, start, end, Quality.ACTUAL, "uk", NOW - timedelta(seconds=40))


def check(found: Intensity | None, on_missing: OnMissing = OnMissing.RUN_NOW) -> Decision:
    return decide("GB", found, threshold_g_per_kwh=150, on_missing=on_missing, now=NOW)


@pytest.mark.parametrize("value", [0.0, 149.9, 150.0])
def test_work_starts_at_or_below_the_threshold(value: float) -> None:
    decision = check(intensity(value))

    assert decision
    assert (Verdict.RUN_NOW, Reason.BELOW_THRESHOLD) == (decision.verdict, decision.reason)
    assert decision.retry_after is None
    assert (value, "uk", Quality.ACTUAL) == (decision.value, decision.source, decision.quality)
    assert timedelta(seconds=40) == decision.age


def test_work_waits_above_the_threshold_until_the_slot_ends() -> None:
    decision = check(intensity(150.1))

    assert not decision
    assert (Verdict.WAIT, Reason.ABOVE_THRESHOLD) == (decision.verdict, decision.reason)
    assert timedelta(minutes=18) == decision.retry_after


@pytest.mark.parametrize(
    ("minutes", "wait"),
    [
        (12.1, timedelta(seconds=30)),  # the slot is about to end
        (5, timedelta(seconds=30)),  # a stale value: its slot has ended
        (600, timedelta(hours=1)),
    ],
)
def test_the_wait_is_neither_too_short_nor_too_long(minutes: float, wait: timedelta) -> None:
    assert wait == check(intensity(400, minutes=minutes)).retry_after


@pytest.mark.parametrize(
    ("on_missing", "verdict", "wait"),
    [
        (OnMissing.RUN_NOW, Verdict.RUN_NOW, None),
        (OnMissing.WAIT, Verdict.WAIT, timedelta(seconds=60)),
    ],
)
def test_without_data_the_caller_decides(
    on_missing: OnMissing, verdict: Verdict, wait: timedelta | None
) -> None:
    decision = check(None, on_missing)

    assert (verdict, Reason.NO_DATA, wait) == (decision.verdict, decision.reason, decision.retry_after)
    assert (None, None, None, None) == (decision.value, decision.source, decision.quality, decision.age)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_an_intensity_is_a_finite_number_of_at_least_0(value: float) -> None:
    with pytest.raises(ValueError, match="intensity"):
        intensity(value)


@pytest.mark.parametrize("minutes", [0, -30, 24 * 60 + 1])
def test_a_slot_is_neither_empty_nor_longer_than_a_day(minutes: float) -> None:
    with pytest.raises(ValueError, match="slot"):
        intensity(1, minutes=minutes)


def test_a_slot_is_half_open() -> None:
    slot = intensity(1)

    assert (True, False) == (slot.covers(slot.start), slot.covers(slot.end))


def test_values_of_different_signals_cannot_be_compared() -> None:
    average = intensity(100)
    marginal = MarginalIntensity("GB", 100, average.start, average.end, Quality.ACTUAL, "uk", NOW)

    assert (Signal.AVERAGE, Signal.MARGINAL) == (average.signal, marginal.signal)
    assert average != marginal  # type: ignore[comparison-overlap]
    with pytest.raises(TypeError):
        _ = average < marginal  # type: ignore[operator]


def test_an_intensity_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        intensity(1).g_per_kwh = 0  # type: ignore[misc]


def test_an_age_is_never_negative() -> None:
    assert timedelta(0) == intensity(1).age(NOW - timedelta(hours=1))
