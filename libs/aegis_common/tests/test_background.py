"""Work in the background really ends, also when somebody swallows its cancellation."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from aegis_common.background import Every, ended


class Stubborn:
    """Work that takes its first cancellations for something else, as a client with a timeout may do."""

    def __init__(self, swallowed: int) -> None:
        self.swallowed = swallowed
        self.begun = asyncio.Event()

    async def __call__(self) -> None:
        while True:
            try:
                self.begun.set()
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.swallowed -= 1
                if self.swallowed < 0:
                    raise


async def test_a_task_that_swallows_its_cancellation_ends_all_the_same() -> None:
    work = Stubborn(2)
    task = asyncio.create_task(work())
    await work.begun.wait()
    await ended(task, None, again_s=0.01)

    assert task.cancelled()


async def test_what_a_task_raises_at_its_end_is_let_go() -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("late")

    tasks = [asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0)
    await ended(*tasks)

    assert all(task.done() for task in tasks)


async def test_leaving_the_block_ends_work_that_swallows_its_cancellation() -> None:
    work = Stubborn(1)
    async with asyncio.timeout(60):
        async with Every(timedelta(0), work, name="stubborn"):
            await work.begun.wait()

    assert work.swallowed < 0
