"""Makes tools of Python functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from aegis_agent.adapters.inline import InlineRunner
from aegis_agent.adapters.schemas import FunctionSchema
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.adapters.workers.fork_server import ForkServer
from aegis_agent.adapters.workers.pool import WorkerPool
from aegis_agent.adapters.workers.setup import WorkerLimits, WorkerSetup, importable
from aegis_agent.domain.tool import MAX_TIMEOUT, Runner, RunsIn, Tool, ToolSpec

_MARK: Final = "__aegis_tool__"
_DEFAULT_TIMEOUT: Final = timedelta(seconds=30)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How a function is offered as a tool.

    Attributes:
        description: What it does; the function's docstring up to the first blank line if empty.
        version: Version of the tool.
        default_timeout: Deadline of a call that brings none.
        max_timeout: Longest deadline of a call; at most 10 minutes.
        concurrency: Most calls that run at once; 1 and up.
        queue_size: Most calls that wait for a slot; 0 and up.
        idempotent: Running it again with the same input does no harm.
        limits: What one child may use.
        warm_up: A function at the top of a module, without arguments, that loads what calls need.
        preload: Modules worth importing once for all children.
    """

    description: str = ""
    version: str = "1.0.0"
    default_timeout: timedelta = _DEFAULT_TIMEOUT
    max_timeout: timedelta = MAX_TIMEOUT
    concurrency: int = 2
    queue_size: int = 16
    idempotent: bool = False
    limits: WorkerLimits = WorkerLimits()
    warm_up: Callable[[], Any] | None = None
    preload: tuple[str, ...] = ()


def tool(**options: Any) -> Callable[[F], F]:
    """Mark a function with its `ToolOptions`, which count wherever it is registered."""

    def mark(function: F) -> F:
        setattr(function, _MARK, ToolOptions(**options))
        return function

    return mark


def options_of(function: Callable[..., Any]) -> ToolOptions:
    """Return the options that `tool` gave the function, or the defaults."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, ToolOptions) else ToolOptions()


def function_tool(name: str, function: Callable[..., Any], options: ToolOptions, server: ForkServer) -> Tool:
    """Make a tool of *function*: `async def` runs in the loop, anything else in a child process.

    Raises:
        InvalidTool: The function, its type hints or an option cannot make a tool.
    """
    schema = FunctionSchema.of(function)
    in_loop = inspect.iscoroutinefunction(function)
    spec = ToolSpec(
        name=name,
        description=options.description or _summary(function),
        version=options.version,
        input_schema=schema.input,
        output_schema=schema.output,
        default_timeout=min(options.default_timeout, options.max_timeout),
        max_timeout=options.max_timeout,
        concurrency=options.concurrency,
        queue_size=options.queue_size,
        idempotent=options.idempotent,
        runs_in=RunsIn.LOOP if in_loop else RunsIn.CHILD,
    )
    runner: Runner
    if in_loop:
        runner = InlineRunner(name, function, schema, output_bytes=options.limits.output_bytes)
    else:
        runner = WorkerPool(name, server, _setup(function, options), size=options.concurrency)
    return Tool(spec=spec, runner=runner, checks=SchemaChecks(spec))


def _setup(function: Callable[..., Any], options: ToolOptions) -> WorkerSetup:
    target, script = importable(function)
    warm_up = importable(options.warm_up)[0] if options.warm_up else ""
    return WorkerSetup(target=target, script=script, warm_up=warm_up, limits=options.limits)


def _summary(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return " ".join(text.split("\n\n", 1)[0].split())
