"""One call from its place in the queue to its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Protocol

from aegis_agent.domain.call import Call, Chunk, Event, Priority
from aegis_agent.domain.errors import InvalidToolOutput, ToolCrashed, ToolOutputTooLarge, ToolTimeout
from aegis_agent.domain.fair_queue import Claim
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.registry import Registration
from aegis_agent.domain.result import Result
from aegis_agent.domain.sizes import size_of
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import RunsIn, Tool
from aegis_agent.domain.usage import Usage, UsedCall, Uses
from aegis_common.errors import AegisError

MAX_COLLECTED_BYTES: Final = 8 << 20
"""Most bytes of all items of a streaming tool that are collected into one list."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The moment in which a call got its slot.

    Attributes:
        tool: What runs now.
        queue_time: How long the call waited.
    """

    tool: Tool
    queue_time: timedelta


OnBegin = Callable[[Begun], Awaitable[None]]
"""Awaited between the wait and the work; the work starts when it returns."""


class Measure(Protocol):
    """Takes what there is to count about calls."""

    def waited(self, tool: str, seconds: float) -> None:
        """Count a call that got a slot after *seconds*."""
        ...

    def ran(self, tool: str, seconds: float, outcome: str) -> None:
        """Count a call that ran; *outcome* is `OK`, or the reason of its error."""
        ...

    def refused(self, tool: str, reason: str) -> None:
        """Count a call that was not started."""
        ...


class Unmeasured:
    """Counts nothing."""

    def waited(self, tool: str, seconds: float) -> None: ...

    def ran(self, tool: str, seconds: float, outcome: str) -> None: ...

    def refused(self, tool: str, reason: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class Execution:
    """One call that is about to run.

    Attributes:
        limit: Its whole time, for messages.
        work: Longest time of the work alone, from its start, where the wait does not count; else None.
        uses: Takes what the call used, unless it is a job's.
        collect: Whether the items of a streaming tool become one list; else they go to the call's sink.
        shared: Slots that all child processes of this agent share, or None.
        on_begin: Awaited when the call has its slot.
    """

    registration: Registration
    call: Call
    limit: timedelta
    priority: Priority
    collect: bool
    measure: Measure
    uses: Uses
    work: timedelta | None = None
    shared: Slots | None = None
    on_begin: OnBegin | None = None

    async def run(self) -> Result:
        """Wait for a slot, run the call, check what it gives.

        Raises:
            AegisError: See `Dispatcher.dispatch`.
        """
        tool = self.registration.tool
        loop = asyncio.get_running_loop()
        asked = loop.time()
        begun: float | None = None
        scope = asyncio.timeout_at(self.call.deadline)
        try:
            async with scope, self._slot():
                begun = loop.time()
                result = await self._begun(timedelta(seconds=begun - asked), scope)
            _refuse_late(scope)
            if not tool.spec.streams:
                await offloaded(tool.checks.output, result.value)
        except TimeoutError as error:
            if not scope.expired():
                raise
            spec, running = tool.spec, begun is not None
            timeout = ToolTimeout.of(spec.name, self.limit, running=running, longest=spec.max_timeout)
            self._failed(begun, timeout.reason)
            raise timeout from error
        except AegisError as error:
            self._failed(begun, error.reason)
            raise
        except asyncio.CancelledError:
            self._failed(begun, "CANCELLED")
            raise
        seconds = result.execution_time.total_seconds()
        self.measure.ran(tool.spec.name, seconds, "OK")
        self._account(seconds, result.usage)
        return result

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        spec = self.registration.tool.spec
        async with self.registration.admission.slot(self._claim()):
            if self.shared is None or spec.runs_in is not RunsIn.CHILD:
                yield
                return
            async with self.shared.held(self._claim()):
                yield

    def _claim(self) -> Claim:
        return Claim(self.call.caller.tenant, self.priority, self.call.deadline, self.limit)

    async def _begun(self, waited: timedelta, scope: asyncio.Timeout) -> Result:
        tool = self.registration.tool
        self.measure.waited(tool.spec.name, waited.total_seconds())
        if self.on_begin is not None:
            await self.on_begin(Begun(tool=tool, queue_time=waited))
        loop = asyncio.get_running_loop()
        start = loop.time()
        if self.work is not None and start + self.work.total_seconds() < self.call.deadline:
            self.limit = self.work
            self.call = replace(self.call, deadline=start + self.work.total_seconds())
            scope.reschedule(self.call.deadline)
        value = await self._attempts()
        spent = loop.time() - start
        self.registration.admission.finished(spent)
        usage = self.call.spent.usage()
        return Result(value, tool, timedelta(seconds=spent), waited, usage=usage)

    async def _attempts(self) -> Any:
        """Run the tool; again when its process died and that does no harm. A job has retries of its own."""
        tool = self.registration.tool
        items = Items(tool, self.call, collect=self.collect) if tool.spec.streams else None
        sink = self.call.sink if items is None else items.take
        number = self.call.attempt
        while True:
            try:
                value = await tool.runner.run(replace(self.call, attempt=number, sink=sink))
            except ToolCrashed as error:
                spent = bool(self.call.job) or number - self.call.attempt >= tool.spec.retries
                if spent or (items is not None and items.count):
                    raise
                _log.warning("tool is started again", extra={"tool": tool.spec.name, "error": error.message})
                number += 1
            else:
                return value if items is None else items.collected

    def _failed(self, begun: float | None, reason: str) -> None:
        name = self.registration.tool.spec.name
        if begun is None:
            self.measure.refused(name, reason)
        else:
            seconds = asyncio.get_running_loop().time() - begun
            self.measure.ran(name, seconds, reason)
            self._account(seconds, self.call.spent.usage())

    def _account(self, seconds: float, usage: Usage) -> None:
        if self.call.job:
            return  # its record says what it used
        spec = self.registration.tool.spec
        self.uses.used(UsedCall(self.call.caller.tenant, spec.name, spec.model, usage, seconds))


def _refuse_late(scope: asyncio.Timeout) -> None:
    """Raise for a call that ended after its deadline: an async tool may have refused to be cancelled."""
    if scope.expired():
        raise TimeoutError


class Items:
    """The items that one call of a streaming tool gives, each checked as it comes."""

    def __init__(self, tool: Tool, call: Call, *, collect: bool) -> None:
        self._tool = tool
        self._sink = call.sink
        self._size = 0
        self.count = 0
        self.collected: list[Any] | None = [] if collect else None

    async def take(self, event: Event) -> None:
        """Take what the tool tells; a `Sink`.

        Raises:
            InvalidToolOutput: The item does not fit the schema.
            ToolOutputTooLarge: The items are too many for one list.
        """
        if not isinstance(event, Chunk):
            await self._sink(event)
            return
        await self._check(event.value)
        self.count += 1
        if self.collected is None:
            await self._sink(event)
            return
        self._size += await offloaded(size_of, event.value)
        if self._size > MAX_COLLECTED_BYTES:
            raise ToolOutputTooLarge.of(
                self._tool.spec.name, size_bytes=self._size, max_bytes=MAX_COLLECTED_BYTES
            )
        self.collected.append(event.value)

    async def _check(self, value: Any) -> None:
        """Check one item as the only one of a list, which is what the schema describes."""
        try:
            await offloaded(self._tool.checks.output, [value])
        except InvalidToolOutput as error:
            place = f"[{self.count}]"
            moved = InvalidToolOutput(error.message.replace("[0]", place, 1))
            path = error.metadata.get("path", "").replace("[0]", place, 1)
            moved.metadata = {**error.metadata, "path": path}
            raise moved from error
