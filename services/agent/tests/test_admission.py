"""Admission: slots, priorities, shares of tenants, and who is sent away with which facts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from aegis_agent.domain.admission import Admission
from aegis_agent.domain.call import Priority
from aegis_agent.domain.durations import Durations
from aegis_agent.domain.errors import (
    ToolOverloaded,
    ToolQueueFull,
    ToolQueueTimeout,
    ToolTimeout,
)
from aegis_agent.domain.fair_queue import Claim
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import ToolSpec
from aegis_common.errors import AegisError

FAR = 1e9


class ManualClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def spec(**changes: Any) -> ToolSpec:
    fields = {"description": "", "version": "1", "input_schema": {}, "output_schema": {}} | changes
    return ToolSpec(name="tool", **fields)


def claim(tenant: str = "a", priority: Priority = Priority.NORMAL, deadline: float = FAR) -> Claim:
    return Claim(tenant, priority, deadline)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# Slots.


@pytest.mark.parametrize("seed", range(6))
async def test_slots_never_leak_and_are_never_given_twice(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # repeatable
    slots = Slots(3, size=None, weights={"a": 2.0})
    held = most = 0

    async def call() -> None:
        nonlocal held, most
        async with slots.held(claim(chance.choice("abc"), chance.choice(list(Priority)))):
            held += 1
            most = max(most, held)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if chance.random() < 0.1:
                    raise ValueError
            finally:
                held -= 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(400):
        tasks.append(asyncio.create_task(call()))
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        assert slots.running <= 3
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks, return_exceptions=True)

    assert (slots.running, len(slots.queue), held, most) == (0, 0, 0, 3)


async def test_a_slot_handed_to_a_call_that_goes_away_is_not_lost() -> None:
    slots = Slots(1, size=None, weights={})

    async def take() -> None:
        async with slots.held(claim()):
            pass

    async with slots.held(claim()):
        first = asyncio.create_task(take())
        second = asyncio.create_task(take())
        await settle()
    first.cancel()  # its turn has come in this very moment
    await asyncio.gather(first, return_exceptions=True)

    async with asyncio.timeout(5):
        await second
        await take()


async def test_a_call_that_goes_away_while_it_waits_leaves_the_queue_at_once() -> None:
    admission = Admission(spec(concurrency=1, queue_size=1))

    async def call() -> None:
        async with admission.slot(claim()):
            await asyncio.sleep(600)

    running, waiting = asyncio.create_task(call()), asyncio.create_task(call())
    await settle()
    before = (admission.running, admission.waiting)
    waiting.cancel()
    await settle()
    after_one = (admission.running, admission.waiting)
    running.cancel()
    await settle()

    assert [before, after_one, (admission.running, admission.waiting)] == [(1, 1), (1, 0), (0, 0)]


# Who is sent away.


class Busy:
    """An admission with all slots taken and some calls waiting, on a clock that the test moves."""

    def __init__(self, **changes: Any) -> None:
        self.clock = ManualClock()
        self.admission = Admission(spec(**changes), clock=self.clock)
        self.started: list[str] = []
        self.refused: list[tuple[str, AegisError]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.gates: list[asyncio.Event] = []

    async def call(self, name: str, **changes: Any) -> asyncio.Event:
        gate = asyncio.Event()

        async def run() -> None:
            try:
                async with self.admission.slot(claim(**changes)):
                    self.started.append(name)
                    await gate.wait()
            except AegisError as error:
                self.refused.append((name, error))

        self.tasks.append(asyncio.create_task(run()))
        self.gates.append(gate)
        await settle()
        return gate

    async def measured(self, *times: float) -> None:
        for seconds in times:
            async with self.admission.slot(claim()):
                self.clock.now += seconds
            self.admission.finished(seconds)

    async def end(self) -> None:
        for gate in self.gates:
            gate.set()
        for task in self.tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_full_queue_is_told_with_its_facts() -> None:
    busy = Busy(concurrency=2, queue_size=1)
    for name in ("one", "two", "three", "four"):
        await busy.call(name)
    ((name, error),) = busy.refused
    await busy.end()

    assert (name, type(error)) == ("four", ToolQueueFull)
    assert error.metadata == {
        "tool": "tool",
        "pushed_out": "no",
        "running": "2",
        "waiting": "1",
        "concurrency": "2",
        "queue_size": "1",
        "wait_estimate_s": "unknown",
        "scope": "replica",
    }
    assert error.retry_after == timedelta(seconds=1)


async def test_the_estimate_and_when_to_try_again_come_from_what_was_measured() -> None:
    busy = Busy(concurrency=2, queue_size=3)
    await busy.measured(*[4.0] * 20)
    for number in range(6):
        await busy.call(str(number))
    ((_, error),) = busy.refused
    await busy.end()

    assert error.metadata["wait_estimate_s"] == "8"  # the fourth in the queue, two slots, 4 s each
    assert error.retry_after == timedelta(seconds=8)


async def test_a_quiet_tenant_takes_the_place_of_a_loud_one() -> None:
    busy = Busy(concurrency=1, queue_size=4)
    for number in range(5):
        await busy.call(f"loud{number}", tenant="loud")
    await busy.call("quiet", tenant="quiet")
    ((name, error),) = busy.refused
    await busy.end()

    assert (name, error.metadata["pushed_out"]) == ("loud4", "yes")


async def test_a_call_that_would_wait_beyond_its_deadline_is_not_let_in() -> None:
    busy = Busy(concurrency=1, queue_size=10)
    await busy.measured(*[2.0] * 10)
    await busy.call("running")
    now = busy.clock.now
    await busy.call("waits", deadline=now + 5)  # 2 s wait, 2 s work
    await busy.call("hopeless", deadline=now + 5)  # 4 s wait, 2 s work
    await busy.call("patient", deadline=now + 6.5)
    ((name, error),) = busy.refused
    await busy.end()

    assert (name, type(error)) == ("hopeless", ToolOverloaded)
    assert (error.metadata["needed_s"], error.metadata["timeout_s"], error.metadata["waiting"]) == (
        "6", "5", "1",
    )  # fmt: skip
    assert error.retry_after == timedelta(seconds=4)


async def test_while_nothing_is_measured_every_call_may_wait() -> None:
    busy = Busy(concurrency=1, queue_size=10)
    await busy.call("running")
    await busy.call("short", deadline=0.001)
    refused = list(busy.refused)
    await busy.end()

    assert refused == []


async def test_a_call_with_too_little_time_left_when_its_turn_comes_is_not_started() -> None:
    busy = Busy(concurrency=1, queue_size=10)
    await busy.measured(*[2.0] * 10)
    gate = await busy.call("running")
    now = busy.clock.now
    await busy.call("too late", deadline=now + 5)
    await busy.call("in time", deadline=now + 20)
    busy.clock.now += 4
    gate.set()
    await settle()
    started, refused = list(busy.started), list(busy.refused)
    await busy.end()

    assert started == ["running", "in time"]
    ((name, error),) = refused
    assert (name, type(error), error.metadata["phase"]) == ("too late", ToolTimeout, "queue")
    assert (error.metadata["timeout_s"], error.metadata["needed_s"]) == ("1", "2")


async def test_a_call_that_is_too_short_for_a_free_slot_is_refused_until_the_measurements_are_old() -> None:
    busy = Busy(concurrency=1)
    await busy.measured(*[2.0] * 10)
    with pytest.raises(ToolTimeout):
        async with busy.admission.slot(claim(deadline=busy.clock.now + 1)):
            pass
    busy.clock.now += 61

    async with busy.admission.slot(claim(deadline=busy.clock.now + 1)):
        pass


async def test_waiting_longer_than_the_tool_allows_is_an_error_of_its_own() -> None:
    admission = Admission(spec(concurrency=1, queue_timeout=timedelta(milliseconds=20)))
    async with admission.slot(claim()):
        with pytest.raises(ToolQueueTimeout) as caught:
            async with admission.slot(claim()):
                pass
        waiting = admission.waiting

    assert (caught.value.metadata["queue_timeout_s"], waiting, admission.running) == ("0.02", 0, 0)


async def test_under_overload_each_tenant_gets_its_share_of_the_slots() -> None:
    clock = ManualClock()
    admission = Admission(
        spec(concurrency=2, queue_size=16), weights={"gold": 3.0, "basic": 1.0}, clock=clock
    )
    done = Counter[str]()

    async def client(tenant: str) -> None:
        while clock.now < 400:
            try:
                async with admission.slot(claim(tenant)):
                    begin = clock.now
                    while clock.now < begin + 1:  # noqa: ASYNC110  # the test moves the clock
                        await asyncio.sleep(0)
                    done[tenant] += 1
            except ToolQueueFull:
                await asyncio.sleep(0)

    clients = [asyncio.create_task(client(tenant)) for tenant in ["gold"] * 12 + ["basic"] * 40]
    while clock.now < 400:
        for _ in range(3):
            await asyncio.sleep(0)
        clock.now += 0.25
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)

    assert done["gold"] / done["basic"] == pytest.approx(3.0, rel=0.1)


async def test_one_slow_call_does_not_turn_the_next_ones_away() -> None:
    busy = Busy(concurrency=1, queue_size=50)
    await busy.measured(*[0.1] * 20, 300.0, *[0.1] * 5)
    await busy.call("running")
    for number in range(10):
        await busy.call(str(number), deadline=busy.clock.now + 5)
    refused = list(busy.refused)
    await busy.end()

    assert refused == []


# What is measured.


def measured(*times: float, now: float = 0.0) -> Durations:
    made = Durations()
    for seconds in times:
        made.add(seconds, now=now)
    return made


def test_nothing_is_known_of_a_few_calls() -> None:
    few, enough = measured(*[1.0] * 7), measured(*[1.0] * 8)

    assert (few.quantile(0.5, now=0), few.mean(now=0)) == (None, None)
    assert (enough.quantile(0.5, now=0), enough.mean(now=0)) == (1.0, 1.0)


def test_what_is_old_no_longer_counts() -> None:
    times = measured(*[1.0] * 20)

    assert (times.mean(now=60), times.mean(now=61)) == (1.0, None)


def test_quantiles_are_those_of_the_calls() -> None:
    times = measured(*(float(number) for number in range(1, 11)))

    assert [times.quantile(share, now=0) for share in (0.0, 0.1, 0.5, 1.0)] == [1, 1, 5, 10]


def test_the_mean_leaves_the_longest_tenth_out() -> None:
    assert measured(*[1.0] * 9, 1000.0).mean(now=0) == 1.0


def test_only_the_last_calls_count() -> None:
    times = measured(*[1.0] * 100, *[5.0] * 64)

    assert times.quantile(0.0, now=0) == 5.0
