"""Models in memory: one in the agent's own process, one in children that can be killed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.models.batcher import STOP_WAIT_S, Batcher
from aegis_agent.adapters.models.probe import MAX_ROWS
from aegis_agent.adapters.models.session import OnnxSession, Stopper
from aegis_agent.adapters.models.tensors import decode, to_raw
from aegis_agent.domain.call import NOBODY, Call
from aegis_agent.domain.errors import ToolCrashed, ToolFailed
from aegis_agent.domain.inference import NotStarted, Profile, Run, Signature, Strategy, Tensors
from aegis_common.errors import AegisError

_MESSAGE_LENGTH: Final = 500


class InProcessModel:
    """A session in this process; a `LoadedModel` of the domain.

    Args:
        tool: Name of the model, for messages.
        session: The session.
        profile: How it is run.
        concurrency: Most runs at once in threads.
        stubborn: Told when a run did not stop in time, with the seconds that were waited.
    """

    def __init__(
        self,
        tool: str,
        session: OnnxSession,
        profile: Profile,
        *,
        concurrency: int,
        stubborn: Callable[[float], None],
    ) -> None:
        self._tool = tool
        self._session: OnnxSession | None = session
        self._profile = profile
        self._names = tuple(item.name for item in session.signature.outputs)
        self._stubborn = stubborn
        self._cores = session.threads
        self._threads = ThreadPoolExecutor(concurrency + 1, thread_name_prefix=f"model-{tool}")
        self._slots = asyncio.Semaphore(concurrency)
        self._batcher = (
            Batcher(
                self._compute,
                self._names,
                self._threads,
                max_rows=min(MAX_ROWS, profile.piece_rows),
                threads=session.threads,
            )
            if profile.strategy is Strategy.BATCH
            else None
        )

    @property
    def memory_bytes(self) -> int:
        return self._profile.memory_bytes

    def run_now(self, inputs: Tensors) -> Run | None:
        if not is_quick(self._profile, inputs):
            return None
        try:
            return self._inline(inputs)
        except Exception as error:
            raise _failed(self._tool, error) from error

    async def run(self, inputs: Tensors, *, deadline: float, start_by: float) -> Run:  # noqa: ARG002  # the caller's scope holds the deadline
        profile, done = self._profile, self.run_now(inputs)
        if done is not None:
            return done
        try:
            rows = _rows(inputs) if profile.rows else 0
            if self._batcher is not None and 0 < rows <= min(MAX_ROWS, profile.piece_rows):
                return await self._batcher.run(inputs, rows=rows, start_by=start_by)
            return await self._in_thread(inputs, rows, start_by)
        except (AegisError, TimeoutError):
            raise
        except Exception as error:
            raise _failed(self._tool, error) from error

    async def close(self) -> None:
        """Free the session, in a thread: that can take a while."""
        held, self._session = [self._session], None
        self._threads.shutdown(wait=False)
        await asyncio.to_thread(held.clear)

    def _inline(self, inputs: Tensors) -> Run:
        begin, cpu_s = time.perf_counter(), time.thread_time()
        outputs = self._compute(inputs, None)
        seconds, cpu_s = time.perf_counter() - begin, (time.thread_time() - cpu_s) * self._cores
        rows = max(_rows(inputs), 1) if self._profile.rows else 1
        return Run(dict(zip(self._names, outputs, strict=True)), 0.0, seconds, rows, rows, cpu_s)

    async def _in_thread(self, inputs: Tensors, rows: int, start_by: float) -> Run:
        arrived = asyncio.get_running_loop().time()
        await self._take_slot(start_by)
        stopper = Stopper()
        begun = time.monotonic()
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._timed, inputs, rows, stopper)
        work.add_done_callback(self._give_slot_back)
        try:
            outputs, cpu_s = await asyncio.shield(work)
        except asyncio.CancelledError:
            stopper.stop()
            await asyncio.wait([work], timeout=STOP_WAIT_S)
            if not work.done():
                self._stubborn(STOP_WAIT_S)
            raise
        seconds = time.monotonic() - begun
        rows = max(rows, 1)
        return Run(
            dict(zip(self._names, outputs, strict=True)),
            max(begun - arrived, 0.0),
            seconds,
            rows,
            rows,
            cpu_s,
        )

    async def _take_slot(self, start_by: float) -> None:
        if math.isinf(start_by):
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout_at(start_by):
                await self._slots.acquire()
        except TimeoutError:
            raise NotStarted from None

    def _give_slot_back(self, work: asyncio.Future[tuple[list[Any], float]]) -> None:
        self._slots.release()
        if not work.cancelled():
            work.exception()  # whoever waited for it may have gone

    def _timed(self, inputs: Tensors, rows: int, stopper: Stopper) -> tuple[list[Any], float]:
        """In the thread: return the outputs and the CPU seconds that they took."""
        begun = time.thread_time()
        outputs = self._in_pieces(inputs, rows, stopper)
        return outputs, (time.thread_time() - begun) * self._cores

    def _in_pieces(self, inputs: Tensors, rows: int, stopper: Stopper) -> list[Any]:
        """In the thread: a long request in pieces, between which it can always be stopped."""
        piece = self._profile.piece_rows
        if rows <= piece:
            return self._compute(inputs, stopper)
        parts = [
            self._compute({name: array[at : at + piece] for name, array in inputs.items()}, stopper)
            for at in range(0, rows, piece)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _compute(self, inputs: Tensors, stopper: Stopper | None) -> list[Any]:
        session = self._session
        if session is None:
            raise RuntimeError("the model has been unloaded")
        return session.run(inputs, stopper)


class ChildModel:
    """A model in children, which are killed at the deadline; a `LoadedModel` of the domain.

    Args:
        pool: Children that run `onnx_child:Served`.
        signature: Its outputs.
        memory_bytes: What all children hold together.
    """

    def __init__(self, pool: WorkerPool, signature: Signature, *, memory_bytes: int) -> None:
        self._pool = pool
        self._outputs = {item.name: item for item in signature.outputs}
        self._inputs = {item.name: item for item in signature.inputs}
        self._memory_bytes = memory_bytes

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    def run_now(self, inputs: Tensors) -> None:  # a child is always waited for
        """Do nothing."""

    async def run(self, inputs: Tensors, *, deadline: float, start_by: float) -> Run:  # noqa: ARG002  # admission has as many slots as there are children
        arrived = asyncio.get_running_loop().time()
        sent = {
            name: [list(array.shape), to_raw(self._inputs[name].datatype, array)]
            for name, array in inputs.items()
        }
        call = Call(arguments={"inputs": sent}, caller=NOBODY, deadline=deadline)
        answer = await self._pool.run(call)
        try:
            outputs = {
                name: decode(self._outputs[name], shape, data)
                for name, (shape, data) in answer["outputs"].items()
            }
            seconds = float(answer["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise ToolCrashed("the model's child process sent nonsense") from error
        taken = asyncio.get_running_loop().time() - arrived
        cpu_s = call.spent.usage().cpu_s or 0.0
        return Run(outputs, max(taken - seconds, 0.0), seconds, 1, 1, cpu_s)

    async def close(self) -> None:
        await self._pool.close()


def _rows(inputs: Tensors) -> int:
    """Return how many rows all inputs have; 0 where they differ, as one row that is meant for all does."""
    counts = {len(array) for array in inputs.values()}
    return counts.pop() if len(counts) == 1 else 0


def is_quick(profile: Profile, inputs: Tensors) -> bool:
    """Return whether a run of *inputs* is so short that it is done in the event loop."""
    limit = profile.inline_elements
    return bool(limit) and sum(array.size for array in inputs.values()) <= limit


def _failed(tool: str, error: Exception) -> ToolFailed:
    kind = type(error).__name__
    return ToolFailed(f"tool {tool!r} failed: {kind}: {str(error)[:_MESSAGE_LENGTH]}", tool=tool, error=kind)
