"""Dispatch: one call from its payload to its result, and several at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aegis_agent.domain.call import Call, Caller
from aegis_agent.domain.errors import AgentInternal, ToolTimeout
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.parts import Payload, arguments_of
from aegis_agent.domain.registry import Registration, Registry
from aegis_agent.domain.tool import Tool
from aegis_common.errors import AegisError

DEFAULT_BATCH_CONCURRENCY: Final = 8
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Action:
    """One call to make.

    Attributes:
        tool: Name of the tool.
        payload: Its input.
        timeout: Longest time that it may take; None means the tool's default.
    """

    tool: str
    payload: Payload
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What one call gave.

    Attributes:
        value: JSON values, and bytes.
        tool: The tool that ran, as it was then.
        execution_time: From the start of the tool to its end.
        queue_time: How long the call waited for a slot.
    """

    value: Any
    tool: Tool
    execution_time: timedelta
    queue_time: timedelta


class Dispatcher:
    """Runs calls: resolve, validate, admit, execute, validate."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def dispatch(self, action: Action, *, caller: Caller, time_left: timedelta | None = None) -> Result:
        """Run one call. When this is cancelled, the tool's work stops.

        Args:
            action: The call.
            caller: For whom.
            time_left: Time until the caller's own deadline; it shortens the action's.

        Raises:
            UnknownTool: The caller has no such tool.
            InvalidToolInput: The payload does not fit the tool.
            ToolTimeout: Time is over; the work has stopped.
            ToolQueueFull: The tool's queue is full.
            ToolFailed, ToolCrashed, ToolOutputTooLarge, InvalidToolOutput: As the tool's runner says.
        """
        registration = self._registry.find(action.tool, tenant=caller.tenant)
        with registration.in_use():
            tool = registration.tool
            arguments = await offloaded(tool.checks.input, arguments_of(action.payload, tool.spec))
            limit = _limit(action, tool, time_left)
            call = Call(
                arguments=arguments,
                caller=caller,
                deadline=asyncio.get_running_loop().time() + limit.total_seconds(),
            )
            result = await self._run(registration, call, limit)
            await offloaded(tool.checks.output, result.value)
            return result

    async def batch(
        self,
        actions: Sequence[Action],
        *,
        caller: Caller,
        concurrency: int = DEFAULT_BATCH_CONCURRENCY,
        time_left: timedelta | None = None,
    ) -> list[Result | AegisError]:
        """Run several calls at once; return a result or an error for each, in the order of *actions*.

        Args:
            actions: The calls.
            caller: For whom.
            concurrency: Most of them that run at once; 1 and up. Each tool's own limits hold as well.
            time_left: Time until the caller's own deadline.
        """
        slots = asyncio.Semaphore(concurrency)
        loop = asyncio.get_running_loop()
        end = None if time_left is None else loop.time() + time_left.total_seconds()

        async def one(action: Action) -> Result | AegisError:
            try:
                async with asyncio.timeout_at(end):
                    await slots.acquire()
            except TimeoutError:
                return ToolTimeout.of(action.tool, time_left or timedelta(0), running=False)
            try:
                left = None if end is None else timedelta(seconds=end - loop.time())
                return await self.dispatch(action, caller=caller, time_left=left)
            except AegisError as error:
                return error
            except Exception:  # one action's fault must not take the others' results away
                _log.exception("action failed unexpectedly", extra={"tool": action.tool})
                return AgentInternal("the agent failed; its log has the cause", tool=action.tool)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(action)) for action in actions]
        return [task.result() for task in tasks]

    async def _run(self, registration: Registration, call: Call, limit: timedelta) -> Result:
        loop = asyncio.get_running_loop()
        name = registration.tool.spec.name
        begin = loop.time()
        started: float | None = None
        if not limit:
            raise ToolTimeout.of(name, limit, running=False)
        try:
            async with asyncio.timeout_at(call.deadline), registration.admission.slot():
                started = loop.time()
                value = await registration.tool.runner.run(call)
                ended = loop.time()
        except TimeoutError:
            raise ToolTimeout.of(name, limit, running=started is not None) from None
        return Result(
            value, registration.tool, timedelta(seconds=ended - started), timedelta(seconds=started - begin)
        )


def _limit(action: Action, tool: Tool, time_left: timedelta | None) -> timedelta:
    spec = tool.spec
    limit = min(action.timeout or spec.default_timeout, spec.max_timeout)
    return max(limit if time_left is None else min(limit, time_left), timedelta(0))
