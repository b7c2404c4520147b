"""A pool of children for one tool, with one hot spare that steps in the moment another is killed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

from aegis_agent.adapters.children import frames
from aegis_agent.adapters.children.deadlines import Watch
from aegis_agent.adapters.children.events import Conversation
from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.link import ChildEnded, ReplyTooLarge
from aegis_agent.adapters.children.outcomes import Orphaned, Outcomes
from aegis_agent.adapters.children.setup import WorkerSetup
from aegis_agent.adapters.children.starts import AT_ONCE, Backoff, again
from aegis_agent.adapters.children.worker import Ending, Worker
from aegis_agent.domain.call import Call
from aegis_agent.domain.errors import InvalidToolInput, Violation
from aegis_common.errors import AegisError

_SETUP_TIMEOUT_S: Final = 60.0
_NEW_START_S: Final = 0.005
"""How long the start of a new spare waits, not to compete with the call that takes the old one."""
_LONG_S: Final = 1e9
_LOST_S: Final = 1.0
"""How long the start of a new spare waits after one that ended while it was idle, and might do so again."""
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
        self._outcomes = Outcomes(tool, setup.limits)
        self._backoff = Backoff()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[Ending]] = set()
        self._farewells: dict[asyncio.Task[None], Worker] = {}
        self._later: asyncio.TimerHandle | None = None
        self._used = False
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
        frame = self._request(call)
        self._used = True
        worker = await self._take()
        conversation = Conversation(call, output_bytes=self._setup.limits.output_bytes)
        try:
            with Watch(worker, call, self._setup.limits):
                answer = await worker.call(frame, conversation)
        except ChildEnded as error:
            worker.see_last()
            ending = await asyncio.shield(self._end(worker))
            worker.account(call.spent, ending)
            raise self._outcomes.of_ending(ending, why=str(error), first_rss=worker.first_rss) from None
        except ReplyTooLarge as error:
            worker.account(call.spent)
            self._end(worker)
            raise self._outcomes.too_large(error.size) from None
        except asyncio.CancelledError:  # a deadline too: this child is never used again
            worker.account(call.spent)
            self._part(worker, call, conversation)
            raise
        except BaseException:
            self._end(worker)
            raise
        worker.account(call.spent)
        self._give_back(worker, answer)
        return self._outcomes.of_answer(answer)

    async def close(self) -> None:
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        for task in (*self._starts, *self._farewells):
            task.cancel()
        await asyncio.gather(*self._starts, *self._farewells, return_exceptions=True)
        self._fail_waiting(self._outcomes.crashed("is gone: the tool was removed"))
        for worker in (*self._idle, *self._busy):
            self._end(worker)
        self._idle.clear()
        await asyncio.gather(*self._ends, return_exceptions=True)

    def _request(self, call: Call) -> bytes:
        left = min(call.deadline - asyncio.get_running_loop().time(), _LONG_S)
        request = {
            "arguments": call.arguments,
            "time_left": left,
            "tenant": call.caller.tenant,
            "attempt": call.attempt,
            "job": call.job,
            "checkpoint": call.checkpoint,
        }
        try:
            return frames.encode(request)
        except frames.FrameError as error:
            raise InvalidToolInput.of(self._tool, [Violation("", "json", str(error))]) from error

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                self._busy.add(worker)
                self._grow_later()
                return worker
            self._end(worker)
        if not self._starts and not self._busy and (error := self._backoff.error()) is not None:
            raise error
        turn: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._grow()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._busy.discard(turn.result())
                self._offer(turn.result())
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _give_back(self, worker: Worker, answer: dict[str, Any]) -> None:
        self._busy.discard(worker)
        self._backoff.succeeded()
        fault = answer.get("fault")
        spoilt = isinstance(fault, dict) and fault.get("kind") in ("memory", "processes")
        if why := "fault" if spoilt else worker.worn_out:
            _log.info("child is replaced", extra={"tool": self._tool, "why": why})
            self._end(worker)
        elif self._closed:
            self._end(worker)
        else:
            self._offer(worker)

    def _offer(self, worker: Worker) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy.add(worker)
                turn.set_result(worker)
                self._grow_later()
                return
        self._idle.append(worker)

    def _lost(self, worker: Worker) -> None:
        """Replace a child that has ended while it was idle."""
        if worker in self._idle:
            self._idle.remove(worker)
            self._see_off(worker)
            self._schedule(_LOST_S)

    def _part(self, worker: Worker, call: Call, conversation: Conversation) -> None:
        """End a cancelled call's child: at once, or after its grace, beside the slot that is free already."""
        left = min(self._setup.limits.grace_s, call.deadline - asyncio.get_running_loop().time())
        if left <= 0 or self._closed or len(self._farewells) > self._size:
            self._end(worker)
            return
        self._busy.discard(worker)
        worker.terminate()
        conversation.over = True
        task = asyncio.get_running_loop().create_task(self._farewell(worker, conversation, left))
        self._farewells[task] = worker
        task.add_done_callback(self._farewells.pop)
        self._grow_later()

    async def _farewell(self, worker: Worker, conversation: Conversation, left_s: float) -> None:
        try:
            async with asyncio.timeout(left_s):
                await worker.finish(conversation)
        except (TimeoutError, ChildEnded, ReplyTooLarge):
            pass
        except Exception:  # the sink of a call that is over
            _log.debug("nobody takes what a cancelled tool tells", extra={"tool": self._tool}, exc_info=True)
        finally:
            self._see_off(worker)

    def _end(self, worker: Worker) -> asyncio.Task[Ending]:
        """Kill a child; a fresh one takes its place."""
        self._busy.discard(worker)
        task = self._see_off(worker)
        self._grow_later()
        return task

    def _see_off(self, worker: Worker) -> asyncio.Task[Ending]:
        task = worker.ending
        if task is None:
            worker.on_lost = None
            worker.kill()
            task = worker.ending = asyncio.get_running_loop().create_task(worker.ended())
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
        return task

    def _grow_later(self) -> None:
        """Start a new spare: at once for a call that waits, else when the next call has had its start."""
        if self._waiting:
            self._grow()
        else:
            self._schedule(_NEW_START_S)

    def _schedule(self, delay_s: float) -> None:
        if self._later is None and not self._closed:
            self._later = asyncio.get_running_loop().call_later(delay_s, self._grow_now)

    def _grow_now(self) -> None:
        self._later = None
        self._grow()

    def _grow(self) -> None:
        """Start children until one is there or coming for each call, for the next one, and as the spare."""
        if self._closed:
            return
        coming = len(self._idle) + len(self._starts)
        ready = len(self._waiting) + (2 if self._used else 1)  # the next call's, and the spare
        wanted = min(ready, self._size + 1 - len(self._busy)) - coming
        if wanted > 0 and (delay := self._backoff.wait_s):
            self._schedule(delay)
            return
        # what is killed and has not ended yet still holds memory
        room = min(
            AT_ONCE - len(self._starts), 2 * (self._size + 1) - len(self._ends) - len(self._busy) - coming
        )
        for _ in range(min(wanted, room)):
            task = asyncio.get_running_loop().create_task(self._refill())
            self._starts.add(task)
            task.add_done_callback(self._start_over)
        if wanted > 0 >= room and not self._starts:
            self._schedule(_NEW_START_S)

    def _start_over(self, task: asyncio.Task[None]) -> None:
        self._starts.discard(task)
        if not task.cancelled():  # else the loop ends, and what is started now would outlive it
            self._grow()

    async def _refill(self) -> None:
        try:
            self._offer(await self._started())
        except AegisError as error:
            _log.warning("no child could be started", extra={"tool": self._tool, "error": error.message})
            self._fail_starts(error)
        except Exception as error:  # out of descriptors, for example: callers must not wait for ever
            _log.exception("no child could be started", extra={"tool": self._tool})
            self._fail_starts(self._outcomes.crashed(f"could not be started: {error}"))

    def _fail_starts(self, error: AegisError) -> None:
        self._backoff.failed(error)
        if not self._busy and not self._idle:
            self._fail_waiting(error)

    def _fail_waiting(self, error: AegisError) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(again(error))
        self._waiting.clear()

    async def _started(self) -> Worker:
        try:
            return await self._started_once()
        except Orphaned:
            return await self._started_once()

    async def _started_once(self) -> Worker:
        worker = await Worker.spawn(self._server, self._setup)
        try:
            async with asyncio.timeout(_SETUP_TIMEOUT_S):
                fault = await worker.prepare()
        except (ChildEnded, ReplyTooLarge) as error:
            worker.see_last()
            ending = await asyncio.shield(self._see_off(worker))
            why = f"{error} during its set-up"
            raise self._outcomes.of_ending(ending, why=why, first_rss=worker.first_rss) from error
        except TimeoutError as error:
            self._see_off(worker)
            raise self._outcomes.crashed(f"was not ready after {_SETUP_TIMEOUT_S:g} s") from error
        except asyncio.CancelledError:
            self._see_off(worker)
            raise
        if fault is not None:
            await asyncio.shield(self._see_off(worker))
            raise self._outcomes.of_setup_fault(fault)
        worker.on_lost = self._lost
        self._server.confined(worker.confinement, self._setup.limits)
        return worker
