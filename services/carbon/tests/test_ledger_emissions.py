"""Carbon integrated slot by slot: sums are sums, and gaps are gaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.ledger.emissions import Evidence, IntensityKind, Piece, emissions
from aegis_carbon.domain.ledger.entry import state
from aegis_carbon.domain.ledger.usage import Energy, Estimate, Kind, Usage

BEGIN: Final = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
KWH: Final = Estimate(2.0, 1.0, 4.0)

slots = st.lists(st.one_of(st.none(), st.floats(0, 2000)), min_size=1, max_size=24)
minutes = st.integers(0, 720)


def at(minute: float) -> datetime:
    return BEGIN + minute * MINUTE


def piece(start: float, end: float, value: float, kind: IntensityKind = IntensityKind.ACTUAL) -> Piece:
    return Piece(
        start=at(start),
        end=at(end),
        g_per_kwh=Estimate(value, value * 0.9, value * 1.1),
        kind=kind,
        provider=kind.name,
        settled=kind is IntensityKind.ACTUAL,
    )


def half_hours(values: list[float | None], kind: IntensityKind = IntensityKind.ACTUAL) -> list[Piece]:
    return [piece(30 * n, 30 * n + 30, value, kind) for n, value in enumerate(values) if value is not None]


@given(values=slots, start=minutes, length=st.integers(1, 720))
def test_grams_are_the_sum_over_minutes_and_what_is_unknown_is_told(
    values: list[float | None], start: int, length: int
) -> None:
    found = emissions(KWH, [(at(start), at(start + length))], Evidence([half_hours(values)], Signal.AVERAGE))
    by_minute = [
        values[minute // 30] if minute // 30 < len(values) else None
        for minute in range(start, start + length)
    ]
    known = [value for value in by_minute if value is not None]

    assert pytest.approx(KWH.value * (length - len(known)) / length) == found.unknown_kwh
    if known:
        assert found.grams is not None
        assert pytest.approx(KWH.value * sum(known) / length) == found.grams.value
        assert found.grams.low <= found.grams.value <= found.grams.high
    else:
        assert found.grams is None
    assert found.settled == (len(known) == length)


@given(first=slots, second=slots)
def test_a_later_layer_counts_only_where_the_earlier_has_a_gap(
    first: list[float | None], second: list[float | None]
) -> None:
    moved = [piece(30 * n + 15, 30 * n + 45, v) for n, v in enumerate(second) if v is not None]
    evidence = Evidence([half_hours(first), moved], Signal.AVERAGE)

    for minute in range(0, 780, 5):
        number = minute // 30
        expected = first[number] if number < len(first) else None
        if expected is None and minute >= 15 and (minute - 15) // 30 < len(second):
            expected = second[(minute - 15) // 30]
        found = list(evidence.during(at(minute), at(minute + 5)))
        assert ([] if expected is None else [expected]) == [each.g_per_kwh.value for each in found]


@given(cut=st.integers(1, 719), values=st.lists(st.floats(0, 2000), min_size=24, max_size=24))
def test_two_halves_emit_what_the_whole_does(cut: int, values: list[float]) -> None:
    evidence = Evidence([half_hours(list(values))], Signal.AVERAGE)
    whole = emissions(KWH, [(at(0), at(720))], evidence)
    halves = emissions(KWH, [(at(0), at(cut)), (at(cut), at(720))], evidence)

    assert whole.grams is not None
    assert halves.grams is not None
    assert pytest.approx(whole.grams.value) == halves.grams.value


def test_work_that_was_suspended_emits_nothing_meanwhile() -> None:
    evidence = Evidence([half_hours([100, 900, 300])], Signal.AVERAGE)
    found = emissions(KWH, [(at(0), at(30)), (at(60), at(90))], evidence)

    assert found.grams is not None
    assert pytest.approx(2.0 * 200) == found.grams.value


def test_the_worst_kind_is_told() -> None:
    layers = [half_hours([100]), half_hours([None, 300], IntensityKind.INHOUSE)]
    found = emissions(KWH, [(at(0), at(60))], Evidence(layers, Signal.AVERAGE))

    assert (IntensityKind.INHOUSE, ("ACTUAL", "INHOUSE")) == (found.kind, found.providers)
    assert not found.settled


@pytest.mark.parametrize(("first", "later", "saved"), [(300, 100, 400.0), (100, 300, -400.0)])
def test_a_saving_is_signed_and_the_counterfactual_runs_at_once(
    first: float, later: float, saved: float
) -> None:
    usage = Usage(
        id="one",
        tenant="red",
        kind=Kind.JOB,
        start=at(30),
        end=at(60),
        zone="DE",
        run_now_start=at(0),
    )
    evidence = Evidence([half_hours([first, later])], Signal.AVERAGE)
    stated, settled = state(usage, Energy(KWH, 0.0), evidence, as_of=at(90), reason="recorded")

    assert pytest.approx(saved) == stated.saved_grams
    assert settled


def test_without_all_of_the_counterfactual_no_saving_is_stated() -> None:
    usage = Usage(
        id="one", tenant="red", kind=Kind.JOB, start=at(30), end=at(60), zone="DE", run_now_start=at(0)
    )
    evidence = Evidence([half_hours([None, 100])], Signal.AVERAGE)
    stated, settled = state(usage, Energy(KWH, 0.0), evidence, as_of=at(90), reason="recorded")

    assert stated.grams is not None
    assert stated.saved_grams is None
    assert not settled
