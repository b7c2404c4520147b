"""Runs together what came in while the last run went on; nothing ever waits for a batch to fill."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.session import Stopper
from aegis_agent.domain.inference import NotStarted, Run, Tensors

Compute = Callable[[Tensors, Stopper], list[Any]]
"""Runs the model in the calling thread and returns every output, in order."""

_QUIET_TURNS: Final = 4
"""Turns of the event loop without a new inference after which a run starts: a call takes some to get here."""

STOP_WAIT_S: Final = 0.25
"""How long a cancelled inference waits for its run to stop; measured models take a fifth of it at most."""


@dataclass(slots=True, eq=False)
class _Item:
    """One inference that waits or runs."""

    inputs: Tensors
    rows: int
    kind: tuple[tuple[int, ...], ...]
    arrived: float
    answer: asyncio.Future[Run]
    scope: asyncio.Timeout | None = None
    batch: _Batch | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    items: list[_Item]
    stopper: Stopper
    ended: asyncio.Event


@dataclass(slots=True)
class _Outcome:
    """What the thread has for one inference: when its run began, how long it took, and what it gave."""

    begun: float
    seconds: float
    outputs: Tensors | Exception
    batch_rows: int
    cpu_s: float = 0.0


class Batcher:
    """Puts the rows of several inferences into one run; each gets its own rows back.

    Args:
        compute: Runs the model; a row's result must not depend on the others.
        outputs: Names of its outputs, in order.
        executor: Where it runs.
        max_rows: Most rows of one run; an inference with more does not belong here.
        threads: Threads of one run: each is taken to work as long as the one that waits for it.
    """

    def __init__(
        self,
        compute: Compute,
        outputs: Sequence[str],
        executor: Executor,
        *,
        max_rows: int,
        threads: int = 1,
    ) -> None:
        self._compute = compute
        self._outputs = tuple(outputs)
        self._executor = executor
        self._max_rows = max_rows
        self._cores = threads
        self._waiting: deque[_Item] = deque()
        self._current: _Batch | None = None
        self._scheduled = False
        self._arrivals = 0

    async def run(self, inputs: Tensors, *, rows: int, start_by: float) -> Run:
        """Run one inference. When this is cancelled and nobody else is in its run, the run stops.

        Raises:
            NotStarted: Its run did not begin by *start_by*, on the clock of the event loop.
        """
        loop = asyncio.get_running_loop()
        # only rows of the same form can stand in one array
        kind = tuple(array.shape[1:] for array in inputs.values())
        item = _Item(inputs, rows, kind, loop.time(), loop.create_future())
        self._waiting.append(item)
        self._arrivals += 1
        self._schedule()
        try:
            if math.isinf(start_by):
                return await item.answer
            async with asyncio.timeout_at(start_by) as item.scope:
                return await item.answer
        except TimeoutError:
            raise NotStarted from None
        finally:
            if item.answer.cancelled():
                await self._leave(item)

    async def _leave(self, item: _Item) -> None:
        batch = item.batch
        if batch is None:
            self._waiting.remove(item)
        elif all(other.answer.cancelled() for other in batch.items):
            batch.stopper.stop()
            await asyncio.wait([asyncio.ensure_future(batch.ended.wait())], timeout=STOP_WAIT_S)

    def _schedule(self) -> None:
        if self._current is None and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._settle, self._arrivals, _QUIET_TURNS)

    def _settle(self, seen: int, turns: int) -> None:
        """Start once the event loop has nothing at hand that brings more; no time passes while it has not."""
        if self._arrivals != seen and sum(item.rows for item in self._waiting) < self._max_rows:
            turns = _QUIET_TURNS
        elif turns == 0 or self._arrivals != seen:
            self._scheduled = False
            self._start()
            return
        asyncio.get_running_loop().call_soon(self._settle, self._arrivals, turns - 1)

    def _start(self) -> None:
        items = self._gather()
        if self._current is not None or not items:
            return
        batch = self._current = _Batch(items, Stopper(), asyncio.Event())
        for item in items:
            item.batch = batch
            if item.scope is not None:
                item.scope.reschedule(None)
        loop = asyncio.get_running_loop()
        done = self._executor.submit(self._work, items, batch.stopper)
        done.add_done_callback(lambda future: loop.call_soon_threadsafe(self._done, batch, future))

    def _gather(self) -> list[_Item]:
        """Take out what runs next: the oldest, and what has its form, as far as there is room."""
        taken: list[_Item] = []
        kept: deque[_Item] = deque()
        room = self._max_rows
        while self._waiting:
            item = self._waiting.popleft()
            if item.scope is not None and item.scope.expired():
                kept.append(item)
            elif not taken or (item.kind == taken[0].kind and item.rows <= room):
                taken.append(item)
                room -= item.rows
            else:
                kept.append(item)
            if room <= 0:
                break
        self._waiting.extendleft(reversed(kept))
        return taken

    def _work(self, items: Sequence[_Item], stopper: Stopper) -> list[_Outcome]:
        """In the thread: run the items together; if that fails, each alone: none suffers for another."""
        begun, cpu_s = time.monotonic(), time.thread_time()
        total = sum(item.rows for item in items)
        try:
            outputs = self._compute(_joined(items), stopper)
        except Exception as error:
            if len(items) == 1:
                return [_Outcome(begun, time.monotonic() - begun, error, 0)]
            outputs = []
        seconds = time.monotonic() - begun
        cpu_s = (time.thread_time() - cpu_s) * self._cores
        if len(items) == 1:
            return [_Outcome(begun, seconds, dict(zip(self._outputs, outputs, strict=True)), total, cpu_s)]
        if not outputs or any(len(array) != total for array in outputs):
            return [outcome for item in items for outcome in self._work([item], stopper)]
        outcomes, start = [], 0
        for item in items:
            end = start + item.rows
            mine = {name: array[start:end] for name, array in zip(self._outputs, outputs, strict=True)}
            share_s = cpu_s * item.rows / total
            outcomes.append(_Outcome(begun, seconds, mine, total if start == 0 else 0, share_s))
            start = end
        return outcomes

    def _done(self, batch: _Batch, future: Future[list[_Outcome]]) -> None:
        self._current = None
        for item, outcome in zip(batch.items, future.result(), strict=True):
            if item.answer.done():
                continue
            if isinstance(outcome.outputs, Exception):
                item.answer.set_exception(outcome.outputs)
            else:
                queue_s = max(outcome.begun - item.arrived, 0.0)
                item.answer.set_result(
                    Run(
                        outcome.outputs,
                        queue_s,
                        outcome.seconds,
                        item.rows,
                        outcome.batch_rows,
                        outcome.cpu_s,
                    )
                )
        batch.ended.set()
        if self._waiting:
            self._schedule()


def _joined(items: Sequence[_Item]) -> Tensors:
    if len(items) == 1:
        return items[0].inputs
    return {name: np.concatenate([item.inputs[name] for item in items]) for name in items[0].inputs}
