"""Whatever fails, and whenever: no deadline is missed, and no work is started twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_carbon.domain.job import Interruption
from aegis_carbon.domain.reservations.reservation import OnMissing
from aegis_carbon.testing.reservations import CAPACITY, POOL, World, expected
from aegis_common.testing.redis import RedisServer

T = TypeVar("T")
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SPLITS = st.sampled_from(
    [
        None,
        Interruption(),
        Interruption(min_chunk=20 * MINUTE, resume_overhead=5 * MINUTE),
        Interruption(max_interruptions=1),
    ]
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("durable")), append_only=True)
    server.start()
    yield server
    server.stop()


class Faults(RuleBasedStateMachine):
    """Reservations come, time passes with and without the service, forecasts and its clock change."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World(self.url)
        self.run(self.world.emptied())
        self.outlook = expected(0)
        self.healthy = True

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(
        minutes=st.integers(5, 240),
        slack=st.integers(10, 600),
        split=SPLITS,
        pooled=st.booleans(),
        known=st.booleans(),
        on_missing=st.sampled_from([OnMissing.RUN_NOW, OnMissing.RUN_AT_LATEST_START]),
    )
    def reserve(
        self,
        minutes: int,
        slack: int,
        split: Interruption | None,
        pooled: bool,
        known: bool,
        on_missing: OnMissing,
    ) -> None:
        try:
            self.run(
                self.world.reserve(
                    minutes * MINUTE,
                    (minutes + slack) * MINUTE,
                    interruption=split,
                    pool=POOL if pooled else "",
                    outlook=self.outlook if known else None,
                    on_missing=on_missing,
                )
            )
        except InfeasibleJob:
            # A pool that is full, or a clock that is ahead.
            assert pooled or not self.healthy

    @rule(minutes=st.integers(1, 300))
    def time_passes(self, minutes: int) -> None:
        self.run(self.world.wait(minutes * MINUTE))

    @rule(minutes=st.integers(1, 300))
    def the_service_is_dead(self, minutes: int) -> None:
        self.healthy = False
        self.run(self.world.wait(minutes * MINUTE, alive=False))

    @rule(hours=st.integers(-6, 6))
    def its_clock_is_set(self, hours: int) -> None:
        self.healthy = False
        self.world.skew = hours * HOUR
        self.run(self.world.wait(timedelta(0)))

    @rule(seed=st.integers(0, 50))
    def a_forecast_is_issued(self, seed: int) -> None:
        self.outlook = expected(seed)
        self.run(self.world.replan(self.outlook))

    @rule(number=st.integers(0, 100))
    def one_is_cancelled(self, number: int) -> None:
        works = list(self.world.works.values())
        if works:
            self.run(self.world.cancel(works[number % len(works)]))

    @invariant()
    def no_deadline_is_missed(self) -> None:
        for work in self.world.works.values():
            over = work.ended or self.world.true.now
            assert work.gone or over <= work.deadline, work

    @invariant()
    def nothing_is_started_twice(self) -> None:
        assert all(work.starts <= 1 for work in self.world.works.values())

    @invariant()
    def a_healthy_service_keeps_the_capacity(self) -> None:
        assert not self.healthy or self.world.most_running <= CAPACITY

    def teardown(self) -> None:
        self.run(self.world.wait(2 * 24 * HOUR, alive=False))
        self.no_deadline_is_missed()
        self.run(self.world.client.aclose())
        self.loop.close()


def _seek(store: RedisServer, examples: int, steps: int) -> None:
    class Bound(Faults):
        url = store.url

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=examples < 20,
        ),
    )


def test_no_order_of_faults_makes_work_late_or_starts_it_twice(store: RedisServer) -> None:
    _seek(store, examples=8, steps=12)


async def test_work_that_runs_on_after_its_time_holds_up_the_next_of_its_pool(store: RedisServer) -> None:
    world = World(store.url)
    await world.emptied()
    first = [await world.reserve(HOUR, 5 * HOUR, pool=POOL) for _ in range(CAPACITY)]
    last = await world.reserve(HOUR, 5 * HOUR, pool=POOL)
    for work in first:
        work.length += timedelta(seconds=8)  # what was reserved ends before
    await world.wait(4 * HOUR)
    await world.client.aclose()

    assert CAPACITY == world.most_running
    assert last.ended is not None
    assert last.ended <= last.deadline


@pytest.mark.long
def test_no_order_of_many_faults_makes_work_late_or_starts_it_twice(store: RedisServer) -> None:
    _seek(store, examples=150, steps=25)
