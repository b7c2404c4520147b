"""Entries are stated anew when actuals replace forecasts, once, however many replicas there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import date, timedelta

import pytest
from opentelemetry.metrics import get_meter
from pydantic import SecretStr

from aegis_carbon.adapters.ledger_store import Bounds, RedisLedger
from aegis_carbon.adapters.metrics import LedgerCounters
from aegis_carbon.domain.ledger.emissions import IntensityKind
from aegis_carbon.domain.ledger.entry import ACTUALS, GAP_FILLED, MOST_STATEMENTS, RECORDED, Entry
from aegis_carbon.domain.ledger.errors import LedgerUnavailable
from aegis_carbon.domain.ledger.ledger import Ledger
from aegis_carbon.domain.ledger.report import Query, Row, report
from aegis_carbon.domain.ledger.sources import EvidenceSource
from aegis_carbon.domain.ledger.usage import Estimate, Kind, PowerModel, Usage
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.ledger import Grid
from aegis_carbon.testing.uk_api import UkApi
from aegis_carbon.wiring import carbon
from aegis_common.durable_redis import DurableRedis, connect
from aegis_common.testing.redis import RedisServer

HOUR = timedelta(hours=1)
WATTS = Estimate(10.0, 5.0, 20.0)
POWER = PowerModel(pue=Estimate(1, 1, 1), watts_per_core=WATTS, watts_per_gib=Estimate(0, 0, 0))
Replica = tuple[Ledger, RedisLedger]
Build = Callable[..., Awaitable[Replica]]


@pytest.fixture
def grid(uk_api: UkApi, clock: ManualClock) -> Grid:
    found = Grid(clock)
    uk_api.answer = found
    return found


@pytest.fixture
async def build(uk_api: UkApi, clock: ManualClock, durable: RedisServer) -> AsyncIterator[Build]:
    """Returns a function that makes a replica; all share one store."""
    async with AsyncExitStack() as stack:

        async def make(bounds: Bounds | None = None) -> Replica:
            settings = IntensitySettings(
                api_url=uk_api.url, cache_redis_url=SecretStr(durable.url), failure_pause=timedelta(seconds=1)
            )
            built = await stack.enter_async_context(carbon(settings, clock=clock))
            client = connect(durable.url)
            stack.push_async_callback(client.aclose)
            redis = DurableRedis(
                client, unavailable=LedgerUnavailable.because, kept="the ledger", advice="nothing"
            )
            store = RedisLedger(redis, strict=True, bounds=bounds or Bounds())
            sources = EvidenceSource(built.lookup, built.outlooks)
            counters = LedgerCounters(get_meter("test"))
            keep = timedelta(days=90)
            return Ledger(
                store, sources, built.catalog, power=POWER, keep=keep, clock=clock, observer=counters
            ), store

        yield make


def hour_of_work(clock: ManualClock, usage_id: str = "one", *, tool: str = "") -> Usage:
    """Return an hour of 100 cores that has just ended: 1 kWh."""
    return Usage(
        id=usage_id,
        tenant="red",
        kind=Kind.JOB,
        start=clock.now - HOUR,
        end=clock.now,
        zone="GB",
        cpu_seconds=360_000,
        run_now_start=clock.now - 3 * HOUR,
        tool=tool,
    )


async def recorded(ledger: Ledger, usage: Usage) -> Entry:
    (found,) = await ledger.record([usage], within=20)
    assert isinstance(found, Entry)
    return found


async def total(store: RedisLedger, clock: ManualClock) -> Row:
    (row,) = await report(store, Query(by=(), first=date(2026, 3, 1), last=clock.now.date(), tenant="red"))
    return row


async def test_actuals_replace_the_forecast_and_the_first_statement_is_kept(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    ledger, store = await build()
    first = await recorded(ledger, hour_of_work(clock))
    before = await total(store, clock)
    clock.move(hours=2.1)
    await ledger.restate()
    later = await ledger.get("red", "one")
    after = await total(store, clock)

    assert first.now.kind in (IntensityKind.FORECAST, IntensityKind.INHOUSE, IntensityKind.ESTIMATED)
    assert first.estimated
    assert [RECORDED, ACTUALS] == [statement.reason for statement in later.statements]
    assert first.now == later.statements[0]
    assert later.now.grams is not None
    assert pytest.approx(200.0) == later.now.grams.value
    assert IntensityKind.ACTUAL is later.now.kind
    assert pytest.approx(0.0, abs=1e-6) == later.now.saved_grams
    assert first.now.grams is not None
    assert pytest.approx(first.now.grams.value) == before.grams
    assert pytest.approx(200.0) == after.grams
    assert 1 == after.amounts["entries"]


async def test_revised_actuals_are_taken_until_they_are_final(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    ledger, store = await build()
    await recorded(ledger, hour_of_work(clock))
    clock.move(hours=2.1)
    await ledger.restate()
    grid.value = 300.0
    clock.move(hours=23)
    await ledger.restate()
    final = await ledger.get("red", "one")
    grid.value = 400.0
    clock.move(hours=48)
    await ledger.restate()

    assert final.final
    assert final.now.grams is not None
    assert pytest.approx(300.0) == final.now.grams.value
    assert final == await ledger.get("red", "one")
    assert pytest.approx(300.0) == (await total(store, clock)).grams


async def test_two_replicas_state_each_entry_anew_once(build: Build, grid: Grid, clock: ManualClock) -> None:
    replicas = [await build(), await build()]
    usages = [hour_of_work(clock, f"u{number}") for number in range(120)]
    outcomes = await asyncio.gather(
        *(ledger.record(usages, within=20) for ledger, _ in [*replicas, *replicas])
    )
    clock.move(hours=2.1)
    await asyncio.gather(*(ledger.restate() for ledger, _ in replicas))
    row = await total(replicas[0][1], clock)

    assert all(isinstance(found, Entry) for answer in outcomes for found in answer)
    assert (120, 0) == (row.amounts["entries"], row.amounts["unknown"])
    assert pytest.approx(120 * 200.0) == row.grams
    for number in range(120):
        entry = await replicas[1][0].get("red", f"u{number}")
        assert [RECORDED, ACTUALS] == [statement.reason for statement in entry.statements]


async def test_a_change_of_an_older_revision_has_no_effect(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    ledger, store = await build()
    first = await recorded(ledger, hour_of_work(clock))
    again = replace(first, revision=2, embodied_g=5.0)

    assert await store.change(first, again, None)
    assert not await store.change(first, again, None)
    assert 5.0 == (await total(store, clock)).amounts["embodied"]


async def test_a_gap_is_filled_when_the_provider_is_back(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    grid.down = True
    ledger, store = await build()
    first = await recorded(ledger, hour_of_work(clock))
    unknown = await total(store, clock)
    grid.down = False
    clock.move(hours=2.1)
    await ledger.restate()
    later = await ledger.get("red", "one")

    assert (None, 1.0) == (first.now.grams, first.now.unknown_kwh)
    assert (None, None, 1.0) == (unknown.grams, unknown.sci, unknown.amounts["unknown_kwh"])
    assert (GAP_FILLED, 0.0) == (later.now.reason, later.now.unknown_kwh)
    assert pytest.approx(200.0) == (await total(store, clock)).grams


async def test_what_was_said_is_not_unsaid_while_the_provider_is_away(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    ledger, _ = await build()
    clock.move(hours=3)
    usage = hour_of_work(clock)
    await recorded(
        ledger, replace(usage, start=usage.start - 3 * HOUR, end=usage.end - 3 * HOUR, run_now_start=None)
    )
    fresh, fresh_store = await build()
    grid.down = True
    clock.move(hours=30)
    await fresh.restate()

    assert pytest.approx(200.0) == (await total(fresh_store, clock)).grams


async def test_the_ledger_is_bounded_and_its_sums_are_whole(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    ledger, store = await build(Bounds(entries=10, cells=5))
    await ledger.record(
        [hour_of_work(clock, f"u{number:02}", tool=f"t{number}") for number in range(30)], within=20
    )
    kept = await store.newest("red", since=None, until=None, after=None, most=100)
    today = clock.now.date()
    cells = [cell async for _, sums in store.sums("red", today, today) for cell in sums]

    assert 10 == len(kept)
    assert 6 == len(cells)
    assert 30 == (await total(store, clock)).amounts["entries"]


async def test_of_many_statements_the_first_and_the_last_are_kept(
    build: Build, grid: Grid, clock: ManualClock
) -> None:
    ledger, _ = await build()
    entry = first = await recorded(ledger, hour_of_work(clock))
    for number in range(40):
        entry = entry.stated_anew(replace(entry.now, unknown_kwh=float(number + 1)), final=False)

    assert MOST_STATEMENTS == len(entry.statements)
    assert (first.now, 40.0) == (entry.statements[0], entry.now.unknown_kwh)
