"""Runs `async def` tools in the agent's own loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta
from typing import Any, Final

from aegis_agent.adapters.children import frames
from aegis_agent.adapters.loop_context import LoopContext
from aegis_agent.adapters.schemas import BadInput, BadOutput, FunctionSchema, ToolInputError
from aegis_agent.adapters.stoppable import Stoppable
from aegis_agent.domain.call import Call, Chunk, within
from aegis_agent.domain.errors import (
    InvalidToolInput,
    InvalidToolOutput,
    ToolFailed,
    ToolOutputTooLarge,
    Violation,
)
from aegis_agent.domain.usage import Stepped
from aegis_common.errors import AegisError

_MESSAGE_LENGTH: Final = 500
_PATIENCE_S: Final = 1.0
"""How long a cancelled tool may take to end by itself."""
_log: Final = logging.getLogger(__name__)


class InlineRunner:
    """Calls a coroutine function or an async generator; a `Runner` of the domain.

    Args:
        tool: Name of the tool, for messages.
        function: What to call; it is cancelled at the deadline.
        schema: Its type hints.
        output_bytes: Most bytes of a result, or of one item of it.
        grace: How long a call goes on with `cancelled` set before it is stopped: after it was cancelled, or
            before its deadline.
    """

    def __init__(
        self,
        tool: str,
        function: Callable[..., Any],
        schema: FunctionSchema,
        *,
        output_bytes: int,
        grace: timedelta = timedelta(0),
    ) -> None:
        self._tool = tool
        self._function = function
        self._schema = schema
        self._output_bytes = output_bytes
        self._grace_s = grace.total_seconds()
        self._farewells: set[asyncio.Task[None]] = set()

    async def run(self, call: Call) -> Any:
        context = LoopContext(self._tool, call)
        try:
            work = self._work(call, context)
            value = await (self._gracefully(work, call, context) if self._grace_s else work)
            await context.close()
        finally:
            context.abandon()
        return value

    async def close(self) -> None:
        """Stop what is in its time of grace."""
        for parting in self._farewells:
            parting.cancel()
        await asyncio.gather(*self._farewells, return_exceptions=True)

    async def _work(self, call: Call, context: LoopContext) -> Any:
        with self._told(), within(call.deadline):
            work = (self._items if self._schema.streams else self._value)(call, context)
            return await Stoppable(Stepped(work, call.spent), _PATIENCE_S, self._tell_refusal)

    def _tell_refusal(self) -> None:
        _log.warning("async tool did not end when it was cancelled", extra={"tool": self._tool})

    async def _value(self, call: Call, context: LoopContext) -> Any:
        return self._checked(self._schema.dump(await self._start(call, context)))

    async def _items(self, call: Call, context: LoopContext) -> None:
        made = self._start(call, context)
        if inspect.isawaitable(made):
            made = await made
        async with aclosing(made) as items:
            async for item in items:
                await context.tell(Chunk(self._checked(self._schema.dump_item(item))))

    def _start(self, call: Call, context: LoopContext) -> Any:
        return self._function(**self._schema.bind(call.arguments, context))

    def _checked(self, value: Any) -> Any:
        size = len(frames.encode(value))
        if size > self._output_bytes:
            raise ToolOutputTooLarge.of(self._tool, size_bytes=size, max_bytes=self._output_bytes)
        return value

    async def _gracefully(self, work: Coroutine[Any, Any, Any], call: Call, context: LoopContext) -> Any:
        """Run *work*, and let it see that its time ends or that it was cancelled before it is stopped.

        A cancelled one goes on beside the slot, which is free at once; nobody hears it any more.
        """
        loop = asyncio.get_running_loop()
        left = call.deadline - loop.time()
        near = loop.call_later(max(0.0, left - min(self._grace_s, left / 2)), context.cancel)
        task = loop.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            context.cancel()
            context.alone = True
            await self._part_with(task, min(self._grace_s, call.deadline - loop.time()))
            raise
        finally:
            near.cancel()

    async def _part_with(self, task: asyncio.Task[Any], left_s: float) -> None:
        async def farewell() -> None:
            try:
                await asyncio.wait({task}, timeout=max(0.0, left_s))
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        parting = asyncio.get_running_loop().create_task(farewell())
        self._farewells.add(parting)
        parting.add_done_callback(self._farewells.discard)
        if left_s <= 0:
            await parting

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn whatever the tool raises into an error that its caller understands.

        `SystemExit` would end the agent. A `CancelledError` that nobody asked for, say of one of the tool's
        own tasks, would end whatever waits for the call.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            yield
        except (BadInput, ToolInputError) as error:
            raise InvalidToolInput.of(self._tool, error.violations) from error
        except (BadOutput, frames.FrameError) as error:
            rule = getattr(error, "rule", "json")
            raise InvalidToolOutput.of(self._tool, Violation("", rule, str(error))) from error
        except AegisError:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling() > before:
                raise
            kind = type(error).__name__
            trace = "".join(traceback.format_tb(error.__traceback__))
            _log.warning("tool failed", extra={"tool": self._tool, "error": kind, "trace": trace})
            raise ToolFailed(
                f"tool {self._tool!r} failed: {kind}: {str(error)[:_MESSAGE_LENGTH]}",
                tool=self._tool,
                error=kind,
            ) from error
