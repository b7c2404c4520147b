"""Ten times more calls than a tool can take: how many get their result in time, how soon the rest know."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from load.harness import Bench, Contender, Figure, Samples

from aegis_agent import AgentManager
from aegis_common.errors import AegisError

WORK_S: Final = 0.02
CONCURRENCY: Final = 4
CAPACITY: Final = CONCURRENCY / WORK_S
"""Calls that the tool can end in a second."""
DEADLINE_S: Final = 0.2
QUEUE: Final = 64
WINDOW_S: Final = 2.0
WARM_UP_S: Final = 0.6
LOADS: Final = (0.9, 1.0, 1.2)
"""Of the capacity; the best goodput among them is the peak."""
OVERLOAD: Final = 10.0

FIGURES: Final = (
    Figure(name="peak", title="Results in time at the best load", unit="results/s", scale=1),
    Figure(name="overload", title="Results in time at 10 times the capacity", unit="results/s", scale=1),
    Figure(
        name="lost",
        title="Of the peak, what is lost at 10 times the capacity",
        unit="%",
        scale=100,
        aims={"p50": 10},
    ),
    Figure(name="told", title="At 10 times the capacity: until a call without a result is told so"),
)


class Refused(Exception):
    """The call was not let in."""


Call = Callable[[], Awaitable[None]]
"""Makes one call with `DEADLINE_S`; raises when it has no result."""


@dataclass(slots=True)
class Tally:
    in_time: int = 0
    told: list[float] = field(default_factory=list)


async def offered(call: Call, rate: float) -> Tally:
    """Make *rate* calls a second, whatever becomes of them, and count those of the window."""
    loop = asyncio.get_running_loop()
    chance = random.Random(1)  # noqa: S311  # the same arrivals for all
    tally = Tally()
    begin = loop.time()
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        came = loop.time()
        counted = came >= begin + WARM_UP_S
        try:
            await call()
        except (AegisError, Refused, TimeoutError):
            if counted:
                tally.told.append(loop.time() - came)
        else:
            tally.in_time += counted and loop.time() - came <= DEADLINE_S

    due = begin
    while due < begin + WARM_UP_S + WINDOW_S:
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = loop.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += chance.expovariate(rate)
    await asyncio.gather(*tasks)
    return tally


def contender(name: str, call: Call) -> Contender:
    async def measure() -> Samples:
        normal = [(await offered(call, load * CAPACITY)).in_time / WINDOW_S for load in LOADS]
        beyond = await offered(call, OVERLOAD * CAPACITY)
        peak, kept = max(normal), beyond.in_time / WINDOW_S
        return {"peak": [peak], "overload": [kept], "lost": [1 - kept / peak], "told": beyond.told}

    return Contender(name=name, measure=measure)


async def work() -> None:
    await asyncio.sleep(WORK_S)


@asynccontextmanager
async def ours() -> AsyncIterator[Contender]:
    async with AgentManager() as manager:
        manager.register_tool("work", work, concurrency=CONCURRENCY, queue_size=QUEUE)

        async def call() -> None:
            await manager.dispatch("work", {}, timeout=DEADLINE_S)

        yield contender("aegis dispatch", call)


def semaphore(name: str, *, queue: float) -> Contender:
    """What is usual: a semaphore, a bound on who waits, and a deadline around both."""
    slots = asyncio.Semaphore(CONCURRENCY)
    waiting = 0

    async def call() -> None:
        nonlocal waiting
        if waiting >= queue:
            raise Refused
        async with asyncio.timeout(DEADLINE_S):
            waiting += 1
            try:
                await slots.acquire()
            finally:
                waiting -= 1
            try:
                await work()
            finally:
                slots.release()

    return contender(name, call)


@asynccontextmanager
async def contenders() -> AsyncIterator[Sequence[Contender]]:
    async with ours() as mine:
        yield [
            mine,
            semaphore("semaphore, any number waits", queue=float("inf")),
            semaphore(f"semaphore, {QUEUE} wait", queue=QUEUE),
        ]


BENCH: Final = Bench(
    name="overload",
    about="a tool of 20 ms and 4 slots, calls with a deadline of 0.2 s, whatever becomes of the others",
    figures=FIGURES,
    contenders=contenders,
    rounds=3,
)
