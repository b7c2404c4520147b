"""AgentManager: the agent's core in process, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Self

from aegis_agent.adapters.functions import ToolOptions, function_tool, options_of
from aegis_agent.adapters.workers.fork_server import ForkServer
from aegis_agent.adapters.workers.pool import WorkerPool
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import DEFAULT_BATCH_CONCURRENCY, Action, Dispatcher
from aegis_agent.domain.parts import Payload
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import ToolSpec
from aegis_common.auth.principal import DEFAULT_TENANT
from aegis_common.errors import AegisError, InvalidArgument

_PRELOAD: Final = ("aegis_agent.adapters.workers.child", "aegis_agent.adapters.schemas")


class AgentManager:
    """Tools, and calls of them.

    Use it as an async context manager, or call `close` in the end: it holds child processes.

    Attributes:
        registry: The tools.
        dispatcher: What runs calls; the service uses it directly.
        fork_server: What children come from.
    """

    def __init__(self) -> None:
        self.fork_server: Final = ForkServer(_PRELOAD)
        self.registry: Final = Registry()
        self.dispatcher: Final = Dispatcher(self.registry)

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
            function: A function with type hints.
            options: See `ToolOptions`; if omitted, those that the decorator `tool` gave, or the defaults.
            changes: Fields of `ToolOptions` that differ, for example `concurrency=4`; times as `timedelta`.

        Raises:
            InvalidTool: The function, its type hints or an option cannot make a tool.
            ToolNameTaken: There is one of that name.
        """
        options = replace(options or options_of(function), **changes)
        self.fork_server.preload(options.preload)
        tool = function_tool(name, function, options, self.fork_server)
        self.registry.add(tool)
        return tool.spec

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
    ) -> Any:
        """Run one tool and return its result: JSON values, and bytes.

        Args:
            name: The tool.
            payload: Arguments by name, a list of `Part`, or the content of a single part.
            timeout: Longest time, in seconds or as `timedelta`; the tool's default if omitted.
            tenant: For whom; it decides which models are visible.

        Raises:
            AegisError: `UnknownTool`, `InvalidToolInput`, `ToolTimeout`, `ToolQueueFull`, `ToolFailed`,
                `ToolCrashed`, `ToolOutputTooLarge` or `InvalidToolOutput`.
        """
        action = Action(name, payload, _duration(timeout))
        return (await self.dispatcher.dispatch(action, caller=Caller(tenant=tenant))).value

    async def dispatch_multimodal(
        self,
        actions: Sequence[Mapping[str, Any]],
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109  # it bounds the tools, not just the wait
        concurrency: int = DEFAULT_BATCH_CONCURRENCY,
        tenant: str = DEFAULT_TENANT,
    ) -> list[Any]:
        """Run several tools at once; return a result or an `AegisError` for each, in the order of *actions*.

        Args:
            actions: Each a mapping of `tool`, `payload` and, if wanted, its own `timeout`.
            timeout: Longest time for all of them together; no limit but the tools' own if omitted.
            concurrency: Most of them that run at once; 1 and up.
            tenant: For whom.

        Raises:
            InvalidArgument: An action has no `tool`, or keys that are unknown; or *concurrency* is below 1.
        """
        if concurrency < 1:
            raise InvalidArgument("concurrency is below 1", concurrency=str(concurrency))
        outcomes = await self.dispatcher.batch(
            [_action(index, item) for index, item in enumerate(actions)],
            caller=Caller(tenant=tenant),
            concurrency=concurrency,
            time_left=_duration(timeout),
        )
        return [item if isinstance(item, AegisError) else item.value for item in outcomes]

    async def close(self) -> None:
        """Stop every call and end every child process."""
        closing = (item.tool.runner.close() for item in self.registry.everything())
        await asyncio.gather(*closing, return_exceptions=True)
        await self.fork_server.close()


def _action(index: int, item: Mapping[str, Any]) -> Action:
    extra = sorted(item.keys() - {"tool", "payload", "timeout"})
    if "tool" not in item or extra:
        fault = f"unknown keys {', '.join(extra)}" if extra else "no 'tool'"
        raise InvalidArgument(f"actions[{index}]: {fault}; give tool, payload and timeout", index=str(index))
    return Action(item["tool"], item.get("payload", {}), _duration(item.get("timeout")))


def _duration(value: float | timedelta | None) -> timedelta | None:
    return timedelta(seconds=value) if isinstance(value, int | float) else value
