"""A pool of children for one tool, with one hot spare that steps in the moment another is killed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from aegis_agent.adapters.workers import frames
from aegis_agent.adapters.workers.fork_server import ForkServer
from aegis_agent.adapters.workers.setup import WorkerSetup
from aegis_agent.adapters.workers.worker import ChildEnded, ReplyTooLarge, Worker
from aegis_agent.domain.call import Call
from aegis_agent.domain.errors import (
    InvalidToolInput,
    InvalidToolOutput,
    ToolCrashed,
    ToolFailed,
    ToolOutputTooLarge,
    Violation,
)
from aegis_common.errors import AegisError

_SETUP_TIMEOUT_S: Final = 60.0
_log: Final = logging.getLogger(__name__)


class WorkerPool:
    """Runs a tool's calls in children; a `Runner` of the domain.

    Children start when they are needed. Whenever one is taken, another is made ready, up to one more than
    may be busy: that one is the spare.

    Args:
        tool: Name of the tool, for messages.
        server: What children come from.
        setup: What they run.
        size: Most children that are busy at once; admission sees to that.
    """

    def __init__(self, tool: str, server: ForkServer, setup: WorkerSetup, *, size: int) -> None:
        self._tool = tool
        self._server = server
        self._setup = setup
        self._size = size
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._waiting: list[asyncio.Future[Worker]] = []
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[str]] = set()
        self._closed = False

    async def start(self) -> Any:
        """Make one child ready and return what its factory tells of itself.

        Raises:
            ToolFailed: It could not be set up.
            ToolCrashed: It ended during its set-up.
        """
        worker = await self._started()
        self._offer(worker)
        return worker.about

    async def run(self, call: Call) -> Any:
        try:
            frame = frames.encode(call.arguments)
        except frames.FrameError as error:
            raise InvalidToolInput.of(self._tool, [Violation("", "json", str(error))]) from error
        worker = await self._take()
        try:
            answer = await worker.call(frame)
        except ChildEnded:
            how = await asyncio.shield(self._end(worker))
            raise self._crashed(f"ended {how}") from None
        except ReplyTooLarge as error:
            self._end(worker)
            raise self._too_large(error.size) from None
        except BaseException:  # a deadline or a cancellation: this child is never used again
            self._end(worker)
            raise
        self._give_back(worker)
        return self._result(answer)

    async def close(self) -> None:
        self._closed = True
        for task in self._starts:
            task.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        for worker in (*self._idle, *self._busy):
            self._end(worker)
        self._idle.clear()
        await asyncio.gather(*self._ends, return_exceptions=True)

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                self._busy.add(worker)
                self._grow()
                return worker
            self._end(worker)
        turn: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._grow()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(turn.result())
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _give_back(self, worker: Worker) -> None:
        self._busy.discard(worker)
        if worker.worn_out or self._closed:
            self._end(worker)
        else:
            self._offer(worker)

    def _offer(self, worker: Worker) -> None:
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.done():
                self._busy.add(worker)
                turn.set_result(worker)
                self._grow()
                return
        self._idle.append(worker)

    def _end(self, worker: Worker) -> asyncio.Task[str]:
        """Kill a child; a fresh one takes its place."""
        self._busy.discard(worker)
        task = self._see_off(worker)
        self._grow()
        return task

    def _see_off(self, worker: Worker) -> asyncio.Task[str]:
        task = worker.ending
        if task is None:
            worker.kill()
            task = worker.ending = asyncio.get_running_loop().create_task(worker.ended())
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
        return task

    def _grow(self) -> None:
        """Start children until one is ready or coming for each waiting call, and one more as the spare."""
        coming = len(self._idle) + len(self._starts)
        room = self._size + 1 - len(self._busy) - coming
        for _ in range(0 if self._closed else min(len(self._waiting) + 1 - coming, room)):
            task = asyncio.get_running_loop().create_task(self._refill())
            self._starts.add(task)
            task.add_done_callback(self._starts.discard)

    async def _refill(self) -> None:
        try:
            self._offer(await self._started())
        except AegisError as error:
            _log.warning("no child could be started", extra={"tool": self._tool, "error": error.message})
            self._fail_waiting(error)
        except Exception as error:  # out of descriptors, for example: callers must not wait for ever
            _log.exception("no child could be started", extra={"tool": self._tool})
            self._fail_waiting(self._crashed(f"could not be started: {error}"))

    def _fail_waiting(self, error: AegisError) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)
        self._waiting.clear()

    async def _started(self) -> Worker:
        worker = await Worker.spawn(self._server, self._setup)
        try:
            async with asyncio.timeout(_SETUP_TIMEOUT_S):
                fault = await worker.prepare()
        except (ChildEnded, ReplyTooLarge) as error:
            how = await asyncio.shield(self._see_off(worker))
            raise self._crashed(f"ended {how} during its set-up") from error
        except TimeoutError as error:
            self._see_off(worker)
            raise self._crashed(f"was not ready after {_SETUP_TIMEOUT_S:g} s") from error
        except asyncio.CancelledError:
            self._see_off(worker)
            raise
        if fault is not None:
            await asyncio.shield(self._see_off(worker))
            raise ToolFailed(
                f"tool {self._tool!r} cannot be set up: {fault['type']}: {fault['message']}",
                tool=self._tool,
                error=fault["type"],
            )
        return worker

    def _result(self, answer: dict[str, Any]) -> Any:
        fault = answer.get("fault")
        if fault is None:
            return answer.get("value")
        try:
            error = self._error(fault)
        except (KeyError, TypeError, ValueError) as wrong:
            raise self._crashed("sent nonsense") from wrong
        raise error

    def _error(self, fault: dict[str, Any]) -> AegisError:
        kind = fault["kind"]
        if kind == "size":
            return self._too_large(int(fault["size"]))
        if kind == "input" and fault["violations"]:
            found = [Violation(str(path), str(rule), str(text)) for path, rule, text in fault["violations"]]
            return InvalidToolInput.of(self._tool, found)
        if kind == "output":
            return InvalidToolOutput.of(self._tool, Violation("", str(fault["rule"]), str(fault["message"])))
        name, message = str(fault["type"]), str(fault["message"])
        _log.warning("tool failed", extra={"tool": self._tool, "error": name, "trace": str(fault["trace"])})
        return ToolFailed(f"tool {self._tool!r} failed: {name}: {message}", tool=self._tool, error=name)

    def _crashed(self, what: str) -> ToolCrashed:
        return ToolCrashed(f"the child process of tool {self._tool!r} {what}", tool=self._tool)

    def _too_large(self, size: int) -> ToolOutputTooLarge:
        return ToolOutputTooLarge.of(self._tool, size_bytes=size, max_bytes=self._setup.limits.output_bytes)
