"""How fast a runaway tool is stopped and its slot is back, and what a warm call costs, beside other pools."""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pebble
from load.harness import Bench, Contender, Figure, Samples

from aegis_agent import AgentManager
from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerSetup
from aegis_agent.domain.call import NOBODY, Call
from aegis_agent.testing import tools

DEADLINE_S: Final = 0.2
KILLS: Final = 8
CALLS: Final = 200
SETTLE_S: Final = 0.25
"""Between two kills, so that each contender has its processes back."""
PROCESSES: Final = 2
"""Of every pool: ours has one slot and one spare."""

FIGURES: Final = (
    Figure(
        name="stopped",
        title="A runaway tool, deadline 0.2 s: from its deadline until its last turn",
        aims={"p50": 2, "p99": 20},
    ),
    Figure(
        name="told",
        title="The same: from the deadline until the caller is told",
        aims={"p50": 2, "p99": 20},
    ),
    Figure(
        name="next",
        title="The next call, made at that moment, until its result (slot back)",
        aims={"p50": 2},
    ),
    Figure(name="warm", title="A warm call without work, until its result"),
)


class Killed(Exception):
    """The deadline has passed, and the work was stopped."""


Spin = Callable[[Path], Any]
"""Runs the runaway tool with `DEADLINE_S`; raises when it has been stopped."""


async def kills(folder: Path, spin: Spin, call: Callable[[], Any]) -> Samples:
    """Let the tool run away `KILLS` times; each time make another call at once."""
    found: dict[str, list[float]] = {"stopped": [], "told": [], "next": []}
    path = folder / "ticks"
    for _ in range(KILLS):
        await asyncio.sleep(SETTLE_S)
        path.write_bytes(bytes(8))
        deadline = time.monotonic() + DEADLINE_S
        try:
            await spin(path)
        except (TimeoutError, Killed):
            told = time.monotonic()
        else:
            raise AssertionError("the runaway came to an end")
        await call()
        found["next"].append(time.monotonic() - told)
        found["told"].append(told - deadline)
        await asyncio.sleep(SETTLE_S)
        (last,) = struct.unpack("d", path.read_bytes())
        found["stopped"].append(last - deadline)
    return found


async def warm(call: Callable[[], Any]) -> list[float]:
    spent = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - begin)
    return spent


def contender(name: str, folder: Path, spin: Spin, call: Callable[[], Any]) -> Contender:
    async def measure() -> Samples:
        own = Path(tempfile.mkdtemp(dir=folder))
        return {**await kills(own, spin, call), "warm": await warm(call)}

    return Contender(name=name, measure=measure)


@asynccontextmanager
async def our_pool(folder: Path) -> AsyncIterator[Contender]:
    """The executor alone; the deadline is asyncio's, as in a dispatch."""
    server = ForkServer(["aegis_agent.testing.tools", "aegis_agent.adapters.children.child"])
    prefix = "aegis_agent.testing.tools:"
    pools = {
        name: WorkerPool(name, server, WorkerSetup(target=prefix + name), size=PROCESSES - 1)
        for name in ("tick",)
    }

    async def run(seconds: float, **arguments: Any) -> Any:
        deadline = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(deadline):
            return await pools["tick"].run(Call(arguments=arguments, caller=NOBODY, deadline=deadline))

    await run(60)
    try:
        yield contender(
            "AEGIS executor", folder, lambda path: run(DEADLINE_S, path=str(path)), lambda: run(60)
        )
    finally:
        for pool in pools.values():
            await pool.close()
        await server.close()


@asynccontextmanager
async def our_dispatch(folder: Path) -> AsyncIterator[Contender]:
    """The whole way: schema, admission, executor, result check."""
    from aegis_agent.domain.errors import ToolTimeout

    async with AgentManager() as manager:
        manager.register_tool("tick", tools.tick, concurrency=PROCESSES - 1)
        await manager.warm_up()

        async def spin(path: Path) -> None:
            try:
                await manager.dispatch("tick", {"path": str(path)}, timeout=DEADLINE_S)
            except ToolTimeout as error:
                raise Killed from error

        yield contender("AEGIS dispatch", folder, spin, lambda: manager.dispatch("tick", {}, timeout=60))


@asynccontextmanager
async def pebble_pool(folder: Path) -> AsyncIterator[Contender]:
    with pebble.ProcessPool(PROCESSES) as pool:

        async def spin(path: Path) -> None:
            await asyncio.wrap_future(pool.schedule(tools.tick, args=[str(path)], timeout=DEADLINE_S))

        async def call() -> None:
            await asyncio.wrap_future(pool.schedule(tools.tick, timeout=60))

        await call()
        yield contender("pebble", folder, spin, call)


class Replaced:
    """`concurrent.futures`: it cannot stop a call, so its processes are killed and it is made anew."""

    def __init__(self) -> None:
        self.executor = ProcessPoolExecutor(PROCESSES)

    async def call(self) -> Any:
        return await asyncio.wrap_future(self.executor.submit(tools.tick))

    async def spin(self, path: Path) -> None:
        future = asyncio.wrap_future(self.executor.submit(tools.tick, str(path)))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.shield(future)
        except TimeoutError:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.end()
            self.executor = ProcessPoolExecutor(PROCESSES)
            raise

    def end(self) -> None:
        for process in list(self.executor._processes.values()):
            process.kill()
        self.executor.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def standard_pool(folder: Path) -> AsyncIterator[Contender]:
    pool = Replaced()
    await pool.call()
    try:
        yield contender("concurrent.futures, killed and made anew", folder, pool.spin, pool.call)
    finally:
        pool.end()


def thread() -> Contender:
    """A thread cannot be stopped at all; only its warm call is measured."""

    async def measure() -> Samples:
        return {"warm": await warm(lambda: asyncio.to_thread(tools.tick))}

    return Contender(name="asyncio.to_thread, which cannot be stopped", measure=measure)


@asynccontextmanager
async def contenders() -> AsyncIterator[Sequence[Contender]]:
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    try:
        async with (
            our_pool(folder) as ours,
            our_dispatch(folder) as dispatch,
            pebble_pool(folder) as other,
            standard_pool(folder) as standard,
        ):
            yield [ours, dispatch, other, standard, thread()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


BENCH: Final = Bench(
    name="executor",
    about="a runaway tool is stopped, the next call runs, and what a warm call costs",
    figures=FIGURES,
    contenders=contenders,
    rounds=6,
    peers=("pebble",),
)
