"""Dispatch: one call from its payload to its result, and several at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aegis_agent.domain.binding import bound
from aegis_agent.domain.cache import ResultCache, key_of
from aegis_agent.domain.call import FIRST, Artifacts, Attempt, Call, Caller, Priority, Sink, ignore, outer_end
from aegis_agent.domain.errors import AgentInternal, ToolTimeout
from aegis_agent.domain.execution import Execution, Measure, OnBegin, Unmeasured
from aegis_agent.domain.fair_queue import Claim
from aegis_agent.domain.parts import Payload
from aegis_agent.domain.registry import Registration, Registry
from aegis_agent.domain.result import Result
from aegis_agent.domain.rooms import Key, Rooms
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import ToolSpec
from aegis_agent.domain.usage import Spent, Unaccounted, Uses
from aegis_common.errors import AegisError

DEFAULT_BATCH_CONCURRENCY: Final = 8
_NO_END_S: Final = 10 * 365 * 86400.0
MAY_RAISE: Final = "admin"
"""Role that may give a call a higher class than its tool has."""

_log: Final = logging.getLogger(__name__)

ArtifactsOf = Callable[[Caller], Artifacts]
"""Gives a caller's way to artifacts."""


@dataclass(frozen=True, slots=True)
class Action:
    """One call to make.

    Attributes:
        tool: Name of the tool.
        payload: Its input.
        timeout: Longest time that it may take, of a job's attempt: from the start of the work; None means the
            tool's default.
        priority: Class of the call; None means the tool's. One above the tool's counts for admins only.
    """

    tool: str
    payload: Payload
    timeout: timedelta | None = None
    priority: Priority | None = None


class Dispatcher:
    """Runs calls: resolve, validate, admit, execute, validate.

    Args:
        registry: The tools.
        cache: Results of cacheable tools; None caches nothing.
        artifacts: Gives a caller's way to artifacts; None where there is no artifact store.
        measure: Takes what there is to count.
        shared: Slots that all calls in child processes share beside each tool's own; None means no bound.

    Attributes:
        uses: Takes what calls used.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        cache: ResultCache | None = None,
        artifacts: ArtifactsOf | None = None,
        measure: Measure | None = None,
        shared: Slots | None = None,
    ) -> None:
        self._registry = registry
        self._cache = ResultCache(0) if cache is None else cache
        self.shared: Final = shared
        self.artifacts = artifacts
        self.measure: Measure = measure or Unmeasured()
        self.uses: Uses = Unaccounted()

    def rooms(self, *, coming: Mapping[Key, int]) -> Rooms:
        """Return how many more calls would start at once; *coming* by tenant and tool ask for slots soon."""
        return self._registry.rooms(self.shared, coming=coming)

    async def dispatch(
        self,
        action: Action,
        *,
        caller: Caller,
        time_left: timedelta | None = None,
        sink: Sink = ignore,
        collect: bool = True,
        attempt: Attempt = FIRST,
        on_begin: OnBegin | None = None,
    ) -> Result:
        """Run one call. When this is cancelled, the tool's work stops.

        Args:
            action: The call.
            caller: For whom.
            time_left: Time until the caller's own deadline; it shortens the action's.
            sink: Takes progress, log lines and checkpoints, and the items that are not collected.
            collect: Give the items of a streaming tool as one list; else each goes to *sink* as it comes.
            attempt: What the call knows of the times that it was tried before.
            on_begin: Awaited when the call has its slot, before the work starts; not for a cached result.

        Raises:
            UnknownTool: The caller has no such tool.
            ToolNotAllowed: The tool is for other roles.
            InvalidToolInput: The payload does not fit the tool.
            UnknownArtifact: The payload names an artifact that the caller's tenant does not have.
            ToolTimeout: Time is over and the work has stopped, or there is too little of it to start.
            ToolOverloaded, ToolQueueFull, ToolQueueTimeout: Too many calls wait.
            ToolFailed, ToolCrashed, ToolOutputTooLarge, InvalidToolOutput: As the tool's runner says.
        """
        registration = self._registry.find(action.tool, caller=caller)
        with registration.in_use():
            tool = registration.tool
            loop = asyncio.get_running_loop()
            came = loop.time()
            artifacts = self.artifacts(caller) if self.artifacts else None
            loading = self._loading(registration, action, caller, time_left, job=attempt.job)
            arguments = await bound(action.payload, tool, artifacts, loading=loading)
            limit, deadline = _limit(action, tool.spec, time_left, came=came, job=attempt.job)
            execution = Execution(
                registration=registration,
                call=Call(
                    arguments=arguments,
                    caller=caller,
                    deadline=deadline,
                    attempt=attempt.number,
                    job=attempt.job,
                    checkpoint=attempt.checkpoint,
                    sink=sink,
                    artifacts=artifacts,
                    spent=attempt.spent or Spent(),
                ),
                limit=limit,
                work=_work_time(action, tool.spec) if attempt.job else None,
                priority=_priority(action, tool.spec, caller),
                collect=collect,
                measure=self.measure,
                uses=self.uses,
                shared=self.shared,
                on_begin=on_begin,
            )
            if tool.spec.cacheable and self._cache.enabled:
                return await self._cached(execution)
            return await execution.run()

    @asynccontextmanager
    async def _loading(
        self,
        registration: Registration,
        action: Action,
        caller: Caller,
        time_left: timedelta | None,
        *,
        job: str,
    ) -> AsyncIterator[None]:
        """Let few calls bring artifacts into memory at once, and none that would be sent away with them."""
        spec = registration.tool.spec
        came = asyncio.get_running_loop().time()
        async with registration.loading:
            limit, deadline = _limit(action, spec, time_left, came=came, job=job)
            if not (spec.cacheable and self._cache.enabled):
                try:
                    claim = Claim(caller.tenant, _priority(action, spec, caller), deadline, limit)
                    registration.admission.check(claim)
                except AegisError as error:
                    self.measure.refused(spec.name, error.reason)
                    raise
            yield

    async def _cached(self, execution: Execution) -> Result:
        call = execution.call
        key = await key_of(execution.registration, tenant=call.caller.tenant, arguments=call.arguments)
        if key is None:
            return await execution.run()
        try:
            return await self._cache.get(key, execution.run, until=call.deadline)
        except TimeoutError as error:
            name = execution.registration.tool.spec.name
            raise ToolTimeout.of(name, execution.limit, running=True) from error

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


def _limit(
    action: Action, spec: ToolSpec, time_left: timedelta | None, *, came: float, job: str
) -> tuple[timedelta, float]:
    """Return the call's time and its end: the tool's time counts from now, the caller's since it *came*.

    A call that is made by the work of another one ends with that one.
    The caller's alone ends a job's wait; the tool's time counts from the start of its work.
    """
    limit = _work_time(action, spec)
    end = asyncio.get_running_loop().time() + (_NO_END_S if job else limit.total_seconds())
    if (outer := outer_end()) < end:
        outer_left = timedelta(seconds=outer - came)
        time_left = outer_left if time_left is None else min(time_left, outer_left)
    if time_left is None or came + time_left.total_seconds() >= end:
        return limit, end
    time_left = max(time_left, timedelta(0))
    return time_left, came + time_left.total_seconds()


def _work_time(action: Action, spec: ToolSpec) -> timedelta:
    return min(action.timeout or spec.default_timeout, spec.max_timeout)


def _priority(action: Action, spec: ToolSpec, caller: Caller) -> Priority:
    wanted = spec.priority if action.priority is None else action.priority
    return wanted if MAY_RAISE in caller.roles else max(wanted, spec.priority)
