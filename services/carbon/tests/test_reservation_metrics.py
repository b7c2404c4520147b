"""What `/metrics` says of reservations."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.reservation import Event, OnMissing
from aegis_carbon.testing.reservations import POOL, World, expected
from aegis_common.telemetry import setup_telemetry
from aegis_common.testing.redis import RedisServer

HOUR = timedelta(hours=1)


async def test_signals_ends_savings_and_missed_deadlines_are_counted(durable: RedisServer) -> None:
    telemetry = setup_telemetry("carbon")
    world = World(durable.url, meter=telemetry.meter)
    await world.reserve(HOUR, 9 * HOUR, pool=POOL, outlook=expected(2))
    await world.reserve(HOUR, 20 * HOUR)
    world.counters.counted(await world.store.counts())
    at_first = telemetry.metrics_text().decode()
    await world.wait(10 * HOUR)
    text = telemetry.metrics_text().decode()
    telemetry.shutdown()
    await world.client.aclose()

    assert 'carbon_reservations_open{state="waiting"} 1.0' in at_first
    assert 'carbon_reservations_open{state="running"} 1.0' in at_first
    assert 'carbon_reservation_signals_total{kind="start",reason="no_data"} 1.0' in text
    assert 'carbon_reservation_signals_total{kind="start",reason="planned_span"} 1.0' in text
    assert 'carbon_reservations_ended_total{assumed="false",state="finished"} 2.0' in text
    assert 'carbon_reservation_pool_over{pool="gpus"} 0.0' in text
    assert 'carbon_reservation_expected_saving_bucket{le="+Inf",pool="gpus"} 1.0' in text
    assert "carbon_reservation_deadlines_missed_total 0.0" in text


async def test_an_end_that_is_guessed_after_an_outage_makes_no_alarm_but_one_that_was_told_late_does(
    durable: RedisServer,
) -> None:
    telemetry = setup_telemetry("carbon")
    world = World(durable.url, meter=telemetry.meter)
    work = await world.reserve(HOUR, 3 * HOUR, on_missing=OnMissing.RUN_AT_LATEST_START)
    at_first = await world.keepers[0].get(work.ref)
    await world.wait(5 * HOUR, alive=False)
    work.outbox.clear()
    await world.wait(2 * HOUR)
    item = await world.keepers[0].get(work.ref)
    guessed = telemetry.metrics_text().decode()
    late = partial(
        machine.reported,
        event=Event.FINISHED,
        token=item.token,
        holder="h",
        at=item.deadline + HOUR,
        work_done=None,
        keep=HOUR,
    )
    await world.keepers[0].change(work.ref, lambda item, now: late(item, now=now))
    told = telemetry.metrics_text().decode()
    telemetry.shutdown()
    await world.client.aclose()

    assert "nothing is known of the grid: on_missing is run_at_latest_start" == at_first.message
    assert item.end_assumed
    assert "carbon_reservation_deadlines_missed_total 0.0" in guessed
    assert "carbon_reservation_deadlines_missed_total 1.0" in told
