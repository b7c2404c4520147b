"""AgentManager: the agent's core in process, without a server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Self

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.functions import ToolOptions, function_tool, options_of
from aegis_agent.domain.admission import EQUAL
from aegis_agent.domain.cache import ResultCache
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import DEFAULT_BATCH_CONCURRENCY, Action, ArtifactsOf, Dispatcher
from aegis_agent.domain.errors import ManagerClosed
from aegis_agent.domain.parts import Payload
from aegis_agent.domain.registry import EVERYONE, Change, Registration, Registry
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.streaming import CallStream
from aegis_agent.domain.tool import Tool, ToolSpec
from aegis_common.auth.principal import DEFAULT_TENANT
from aegis_common.errors import AegisError, InvalidArgument

DEFAULT_CACHE_BYTES: Final = 64 << 20
_PRELOAD: Final = ("aegis_agent.adapters.children.child", "aegis_agent.adapters.schemas")
_log: Final = logging.getLogger(__name__)


class AgentManager:
    """Tools, and calls of them.

    Use it as an async context manager, or call `close` in the end: it holds child processes. Tools can be
    added, replaced and removed at any time, also while calls run.

    Args:
        cache_bytes: Bound on the results of cacheable tools that are kept; 0 keeps none.
        tenant_weights: Shares of tenants where calls wait, above 0; a tenant that is not named has 1.
        child_slots: Most calls in child processes at once, of all tools together; None means no such bound.
        artifacts: Gives a caller's way to artifacts; None where there is no artifact store.

    Attributes:
        registry: The tools.
        cache: Results of cacheable tools.
        dispatcher: What runs calls; the service uses it directly.
        fork_server: What children come from.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        tenant_weights: Mapping[str, float] = EQUAL,
        child_slots: int | None = None,
        artifacts: ArtifactsOf | None = None,
    ) -> None:
        for tenant, weight in tenant_weights.items():
            if not 0 < weight < float("inf"):
                raise InvalidArgument(f"weight {weight!r} of tenant {tenant!r} is not above 0", tenant=tenant)
        if cache_bytes < 0:
            raise InvalidArgument(
                f"cache_bytes is {cache_bytes}; 0 keeps nothing", cache_bytes=str(cache_bytes)
            )
        if child_slots is not None and child_slots < 1:
            what = f"child_slots is {child_slots}; give 1 or more, or None for no such bound"
            raise InvalidArgument(what, child_slots=str(child_slots))
        self.fork_server: Final = ForkServer(_PRELOAD)
        self.registry: Final = Registry(tenant_weights)
        self.cache: Final = ResultCache(cache_bytes)
        shared = None if child_slots is None else Slots(child_slots, size=None, weights=tenant_weights)
        self.dispatcher: Final = Dispatcher(
            self.registry, cache=self.cache, artifacts=artifacts, shared=shared
        )
        self.registry.listen(self.cache.forget)
        self.registry.listen(_tell)
        self._retiring: dict[asyncio.Task[None], Registration] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def register_tool(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        options: ToolOptions | None = None,
        **changes: Any,
    ) -> ToolSpec:
        """Offer *function* as the tool *name*.

        `async def` runs in the event loop. Any other function runs in a child process, which imports it by
        module and name, and which is killed at the deadline or when the caller is cancelled.

        Args:
            name: Lower-case letters, digits, `_`, `.` and `-`; 1 to 63, first a letter.
            function: A function with type hints; a generator gives its result item by item.
            options: See `ToolOptions`; if omitted, those that the decorator `tool` gave, or the defaults.
            changes: Fields of `ToolOptions` that differ, for example `concurrency=4`; times as `timedelta`.

        Raises:
            InvalidTool: The function, its type hints or an option cannot make a tool.
            ToolNameTaken: There is one of that name.
        """
        tool = self._made(name, function, options, changes)
        self.registry.add(tool)
        return tool.spec

    async def upgrade_tool(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        options: ToolOptions | None = None,
        **changes: Any,
    ) -> ToolSpec:
        """Put *function* in the place of the tool *name*, or add it.

        The new one is made ready first; if that fails, the old one goes on. Calls from now on go to the new
        one. Those that the old one has, running or waiting, end there; then its children end.

        Raises:
            InvalidTool, ToolFailed, ToolCrashed: The new one is of no use.
        """
        tool = self._made(name, function, options, changes)
        await self.take_over(tool)
        return tool.spec

    async def take_over(self, *tools: Tool) -> None:
        """Make *tools* ready, then put all of them in one step in the place of everyone's of their names.

        Raises:
            ToolFailed, ToolCrashed: One cannot be made ready; all are closed, and the old ones go on.
            ToolNameTaken: A tenant has a tool of that name; likewise.
        """
        await self.make_ready(*tools)
        try:
            self.put_in(*tools)
        except BaseException:
            await _closed(tools)
            raise

    async def make_ready(self, *tools: Tool) -> None:
        """Have a child of each of *tools* wait for its first call.

        Raises:
            ToolFailed, ToolCrashed: One cannot be made ready; all are closed.
        """
        try:
            pools = [tool.runner for tool in tools if isinstance(tool.runner, WorkerPool)]
            await asyncio.gather(*(pool.start() for pool in pools))
        except BaseException:
            await _closed(tools)
            raise

    def put_in(self, *tools: Tool, owner: str = EVERYONE) -> None:
        """Put all of *tools* in one step in the place of the owner's of their names.

        Raises:
            ToolNameTaken: A tenant has a tool of that name, or everyone's tools have a tenant's; none is put.
        """
        check = self.registry.check_replaceable if owner == EVERYONE else self.registry.check_free
        for tool in tools:
            check(tool.spec.name)
        for tool in tools:
            everyone = owner == EVERYONE
            before = self.registry.replace(tool) if everyone else self.registry.swap(tool, tenant=owner)
            if before is not None:
                self._retire(before)

    def retire_tool(self, name: str, *, owner: str = EVERYONE) -> asyncio.Task[None]:
        """Take a tool out at once; its children end when its last call has, and then the task is done.

        Raises:
            UnknownTool: The owner has none of that name.
        """
        return self._retire(self.registry.remove(name, owner=owner))

    async def remove_tool(self, name: str) -> None:
        """Take a tool out at once; return when its last call has ended, and its children.

        Raises:
            UnknownTool: There is none of that name.
        """
        await asyncio.shield(self.retire_tool(name))

    async def warm_up(self) -> None:
        """Make one child of every tool ready, so that no first call waits; else they start when needed.

        Raises:
            ToolFailed: A tool's module cannot be imported, or its warm-up failed.
            ToolCrashed: A child ended during its set-up.
        """
        pools = [item.tool.runner for item in self.registry.everything()]
        await asyncio.gather(*(pool.start() for pool in pools if isinstance(pool, WorkerPool)))

    async def dispatch(
        self,
        name: str,
        payload: Payload,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109  # it bounds the tool, not just the wait
        tenant: str = DEFAULT_TENANT,
        roles: Collection[str] = (),
    ) -> Any:
        """Run one tool and return its result: JSON values, and bytes; a list for one that streams.

        Args:
            name: The tool.
            payload: Arguments by name, a list of `Part`, or the content of a single part.
            timeout: Longest time, in seconds or as `timedelta`; the tool's default if omitted.
            tenant: For whom; it decides which tools and models are visible.
            roles: What the caller may do, for tools that ask for a role.

        Raises:
            AegisError: `UnknownTool`, `ToolNotAllowed`, `InvalidToolInput`, `ToolTimeout`, `ToolQueueFull`,
                `ToolOverloaded`, `ToolQueueTimeout`, `ToolFailed`, `ToolCrashed`, `ToolOutputTooLarge` or
                `InvalidToolOutput`.
        """
        self._check_open()
        action = Action(name, payload, _duration(timeout))
        return (await self.dispatcher.dispatch(action, caller=_caller(tenant, roles))).value

    @asynccontextmanager
    async def stream(
        self,
        name: str,
        payload: Payload,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109  # it bounds the tool, not just the wait
        tenant: str = DEFAULT_TENANT,
        roles: Collection[str] = (),
    ) -> AsyncIterator[CallStream]:
        """Run one tool and read what it tells meanwhile; leaving the block stops the work.

            async with manager.stream("count", {"to": 3}) as told:
                async for event in told:  # Begun, Progress, LogLine, Chunk ..., and a Result in the end
                    ...

        Args and errors as of `dispatch`; errors are raised by the iteration.
        """
        self._check_open()
        action = Action(name, payload, _duration(timeout))
        async with CallStream(self.dispatcher, action, caller=_caller(tenant, roles)) as told:
            yield told

    async def dispatch_multimodal(
        self,
        actions: Sequence[Mapping[str, Any]],
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109  # it bounds the tools, not just the wait
        concurrency: int = DEFAULT_BATCH_CONCURRENCY,
        tenant: str = DEFAULT_TENANT,
        roles: Collection[str] = (),
    ) -> list[Any]:
        """Run several tools at once; return a result or an `AegisError` for each, in the order of *actions*.

        Args:
            actions: Each a mapping of `tool`, `payload` and, if wanted, its own `timeout`.
            timeout: Longest time for all of them together; no limit but the tools' own if omitted.
            concurrency: Most of them that run at once; 1 and up.
            tenant: For whom.
            roles: What the caller may do, for tools that ask for a role.

        Raises:
            InvalidArgument: An action has no `tool`, or keys that are unknown; or *concurrency* is below 1.
        """
        self._check_open()
        if concurrency < 1:
            raise InvalidArgument("concurrency is below 1", concurrency=str(concurrency))
        outcomes = await self.dispatcher.batch(
            [_action(index, item) for index, item in enumerate(actions)],
            caller=_caller(tenant, roles),
            concurrency=concurrency,
            time_left=_duration(timeout),
        )
        return [item if isinstance(item, AegisError) else item.value for item in outcomes]

    async def close(self) -> None:
        """End every child process and its calls; a call of an async tool ends with whoever waits for it.

        Nothing can be called or registered after that.
        """
        self._closed = True
        for task in self._retiring:
            task.cancel()
        items = [*self.registry.everything(), *self._retiring.values()]
        await asyncio.gather(*(item.tool.runner.close() for item in items), return_exceptions=True)
        await self.fork_server.close()

    def _made(
        self, name: str, function: Callable[..., Any], options: ToolOptions | None, changes: Mapping[str, Any]
    ) -> Tool:
        self._check_open()
        options = (options or options_of(function)).changed(changes)
        self.fork_server.preload(options.preload)
        return function_tool(name, function, options, self.fork_server)

    def _check_open(self) -> None:
        if self._closed:
            raise ManagerClosed("this AgentManager is closed; make another one")

    def _retire(self, registration: Registration) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(registration.retire())
        self._retiring[task] = registration
        task.add_done_callback(self._retired)
        return task

    def _retired(self, task: asyncio.Task[None]) -> None:
        registration = self._retiring.pop(task)
        if not task.cancelled() and task.exception() is not None:
            name = registration.tool.spec.name
            _log.error("a replaced tool could not be closed", extra={"tool": name}, exc_info=task.exception())


async def _closed(tools: Sequence[Tool]) -> None:
    await asyncio.gather(*(tool.runner.close() for tool in tools), return_exceptions=True)


def _tell(change: Change) -> None:
    """Log a tool that has come, gone, or been replaced."""
    present = change.after or change.before
    if present is None:
        return
    versions = [item.tool.spec.version if item else "" for item in (change.before, change.after)]
    what = "replaced" if change.before and change.after else "added" if change.after else "removed"
    extra = {"tool": present.tool.spec.name, "before": versions[0], "after": versions[1]}
    _log.info("tool %s", what, extra=extra | ({} if change.owner == EVERYONE else {"tenant": change.owner}))


def _caller(tenant: str, roles: Collection[str]) -> Caller:
    return Caller(tenant=tenant, roles=frozenset(roles))


def _action(index: int, item: Any) -> Action:
    extra = (
        sorted(map(str, item.keys() - {"tool", "payload", "timeout"})) if isinstance(item, Mapping) else []
    )
    fault = ""
    if not isinstance(item, Mapping):
        fault = f"{item!r:.80} is no mapping"
    elif extra:
        fault = f"unknown keys {', '.join(extra)}"
    elif not isinstance(item.get("tool"), str):
        fault = f"'tool' is {item['tool']!r:.80} and no name" if "tool" in item else "no 'tool'"
    if fault:
        raise InvalidArgument(f"actions[{index}]: {fault}; give tool, payload and timeout", index=str(index))
    return Action(item["tool"], item.get("payload", {}), _duration(item.get("timeout")))


def _duration(value: float | timedelta | None) -> timedelta | None:
    if value is None:
        return None
    try:
        found = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError):
        found = timedelta(0)
    if found <= timedelta(0):
        raise InvalidArgument(
            f"timeout {value!r} is no number of seconds above 0; leave it out for the default",
            timeout=str(value),
        )
    return found
