"""A holder starts its work once and in time, whatever becomes of the signals, the service and the clock."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from aegis_common.reservation_holder import Effect, ReservationHolder, Signal

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def holder(*, interruptible: bool = False) -> ReservationHolder:
    return ReservationHolder(NOON + 8 * HOUR, HOUR, start_token=3, interruptible=interruptible)


def test_it_starts_when_it_is_told() -> None:
    held = holder()

    assert held.order(NOON, 0).effect is None
    assert held.told(3, Signal.START)
    found = held.order(NOON + MINUTE, 60)
    assert (Effect.START, 3, False) == (found.effect, found.token, found.by_itself)
    assert held.order(NOON + MINUTE, 60).effect is None


def test_it_starts_by_itself_and_the_late_start_has_no_effect() -> None:
    held = holder()
    held.order(NOON, 0)

    found = held.order(held.latest_start(), 7 * 3600)

    assert (Effect.START, 3, True) == (found.effect, found.token, found.by_itself)
    assert not held.told(3, Signal.START)
    assert held.order(NOON + 8 * HOUR, 8 * 3600).effect is None


def test_work_that_may_stop_is_suspended_and_goes_on_by_itself() -> None:
    held = holder(interruptible=True)
    held.told(3, Signal.START)
    held.order(NOON, 0)
    held.told(4, Signal.SUSPEND, NOON + 5 * HOUR)

    assert held.order(NOON + HOUR / 2, 1800, worked=HOUR / 2).effect is Effect.SUSPEND
    assert not held.told(3, Signal.START)
    assert held.order(NOON + 4 * HOUR, 4 * 3600, worked=HOUR / 2).effect is None
    found = held.order(NOON + 5 * HOUR, 5 * 3600, worked=HOUR / 2)
    assert (Effect.RESUME, 4, True) == (found.effect, found.token, found.by_itself)


@pytest.mark.parametrize("kind", [Signal.RESUME, Signal.DEADLINE])
def test_a_lost_start_is_made_up_for_by_the_next_signal(kind: Signal) -> None:
    held = holder(interruptible=True)
    held.told(5, kind)

    assert held.order(NOON, 0).effect is Effect.START


def test_after_the_deadline_signal_it_is_not_suspended_any_more() -> None:
    held = holder(interruptible=True)
    held.told(3, Signal.DEADLINE)
    held.order(NOON, 0)
    held.told(4, Signal.SUSPEND)

    assert held.order(NOON + MINUTE, 60).effect is None


def test_a_service_that_promises_more_time_than_there_is_is_not_believed() -> None:
    held = holder()
    held.answered(0, NOON + 20 * HOUR)

    assert held.latest_start() == NOON + 7 * HOUR - timedelta(seconds=30)


def test_a_clock_that_is_set_back_does_not_prolong_the_wait() -> None:
    held = holder()
    held.order(NOON, 0)

    assert held.order(NOON - 3 * HOUR, 7 * 3600).effect is Effect.START


def test_a_holder_that_restarts_does_not_start_again() -> None:
    held = ReservationHolder(NOON + 8 * HOUR, HOUR, start_token=3, started=True, running=True, token=3)
    held.told(3, Signal.START)
    held.told(9, Signal.RESUME)

    assert held.order(NOON + 9 * HOUR, 0).effect is None


def test_a_deadline_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        ReservationHolder(datetime(2026, 3, 4), HOUR)  # noqa: DTZ001  # the point of the test


@pytest.mark.parametrize("interruptible", [False, True])
@pytest.mark.parametrize("seed", range(300))
def test_any_order_duplication_and_loss_of_signals_gives_one_start_in_time(
    seed: int, *, interruptible: bool
) -> None:
    """Signals come in any order, twice or never; the clock steps by up to three hours each way."""
    chance = random.Random(seed)  # noqa: S311  # a seeded test
    held = holder(interruptible=interruptible)
    signals = [(token, chance.choice(list(Signal))) for token in range(3, 12)]
    inbox = [signal for signal in signals * 2 if chance.random() < 0.5]
    chance.shuffle(inbox)
    starts, worked, last_token = 0, timedelta(0), 0
    wall_offset = timedelta(0)
    held.order(NOON, 0)
    for minute in range(1, 8 * 60 + 1):
        if inbox and chance.random() < 0.05:
            token, kind = inbox.pop()
            assert held.told(token, kind, NOON + chance.uniform(-9, 9) * HOUR) == (token > last_token)
            last_token = max(last_token, token)
        if chance.random() < 0.01:
            wall_offset = chance.uniform(-3, 3) * HOUR
        elapsed = minute * MINUTE
        now = NOON + wall_offset + elapsed
        latest = held.latest_start(worked)
        found = held.order(now, elapsed.total_seconds(), worked=worked)
        last_token = max(last_token, held.token)
        starts += found.effect is Effect.START
        assert held.running or now < latest
        worked += MINUTE if held.running else timedelta(0)

    assert starts == 1
