"""What the store of reservations promises, over a real Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from aegis_carbon.adapters import reservation_keys as keys
from aegis_carbon.adapters.reservation_records import from_record, to_record
from aegis_carbon.domain.job import Interruption, PowerStep
from aegis_carbon.domain.reservations.errors import ReservationStoreUnavailable, UnreadableReservation
from aegis_carbon.domain.reservations.reservation import OnMissing, Reservation, State
from aegis_carbon.domain.reservations.store import Outcome
from aegis_carbon.testing.reservations import POOL, World, expected
from aegis_common.testing.redis import RedisServer

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(durable: RedisServer) -> AsyncIterator[World]:
    made = World(durable.url)
    yield made
    await made.client.aclose()


async def stored(world: World, number: int = 0) -> Reservation:
    found = await world.store.get(list(world.works.values())[number].ref)
    assert found is not None
    return found


async def test_a_record_keeps_everything(world: World) -> None:
    await world.reserve(
        2 * HOUR, 9 * HOUR, interruption=Interruption(max_interruptions=3), outlook=expected(1)
    )
    await world.wait(6 * HOUR)
    item = replace(
        await stored(world),
        power=(PowerStep(HOUR, 1.5),),
        labels={"team": "übung"},
        on_missing=OnMissing.HOLD,
        max_hold=timedelta(seconds=0.125),
    )

    assert item.signal is not None
    assert item == from_record(to_record(item))
    with pytest.raises(UnreadableReservation, match="schema version 9"):
        from_record(json.dumps({**json.loads(to_record(item)), "schema_version": 9}))


async def test_a_commit_whose_answer_was_lost_is_done_and_an_overtaken_one_changes_nothing(
    world: World,
) -> None:
    await world.reserve(HOUR, 9 * HOUR, outlook=expected(1))
    item = await stored(world)
    now = world.clock()
    mine = replace(item, message="mine", revision=2)
    theirs = replace(item, message="theirs", revision=2)
    outcomes = [await world.store.commit([change], now=now) for change in (mine, mine, theirs)]

    assert [Outcome.DONE, Outcome.AGAIN, Outcome.OVERTAKEN] == outcomes
    assert "mine" == (await stored(world)).message


async def test_a_commit_that_rests_on_another_state_of_its_pool_changes_nothing(world: World) -> None:
    for _ in range(2):
        await world.reserve(HOUR, 9 * HOUR, pool=POOL, outlook=expected(1))
    pool = await world.store.pool(POOL)
    first, second = (replace(item, message="new", revision=2) for item in pool.members)
    outcomes = [
        await world.store.commit([change], now=world.clock(), pool=pool.revision)
        for change in (first, second)
    ]

    assert [Outcome.DONE, Outcome.OVERTAKEN] == outcomes
    assert 1 == (await stored(world, 1)).revision


async def test_a_record_that_cannot_be_read_harms_no_other(world: World) -> None:
    for _ in range(2):
        await world.reserve(HOUR, 9 * HOUR, pool=POOL, outlook=expected(1))
    bad, good = (work.ref for work in world.works.values())
    await world.client.hset(keys.item(bad), "record", "{")
    world.true.move(hours=8.5)
    await world.timers[0].turn()

    assert (await stored(world, 1)).state is State.RUNNING
    assert [good.id] == [item.id for item in await world.store.newest(good.tenant, before="", most=9)]
    with pytest.raises(UnreadableReservation):
        await world.store.get(bad)


async def test_a_store_that_was_killed_has_what_it_acknowledged_and_signals_go_on(
    world: World, durable: RedisServer
) -> None:
    await world.reserve(HOUR, 9 * HOUR, outlook=expected(1))
    before = await stored(world)
    durable.kill()
    with pytest.raises(ReservationStoreUnavailable):
        await world.timers[0].turn()
    durable.start()

    assert before == await stored(world)
    await world.wait(10 * HOUR)
    assert (await stored(world)).state is State.FINISHED
