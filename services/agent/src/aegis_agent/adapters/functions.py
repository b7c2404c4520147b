"""Makes tools of Python functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar, overload

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup, importable
from aegis_agent.adapters.inline import InlineRunner
from aegis_agent.adapters.option_forms import check_names, check_values
from aegis_agent.adapters.schemas import FunctionSchema
from aegis_agent.adapters.signatures import is_async
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.call import Priority
from aegis_agent.domain.errors import InvalidTool
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
        max_timeout: Longest deadline of a call, and time of an attempt of a job; up to 24 hours, of which
            calls that are no jobs have 10 minutes at most.
        concurrency: Most calls that run at once; 1 and up.
        queue_size: Most calls that wait for a slot; 0 and up.
        queue_timeout: Longest time that a call waits; None means as long as its deadline lets it.
        priority: Class of its calls that name none.
        idempotent: Running it again with the same input does no harm.
        retries: How often a call whose process died is started again; 0 to 5, idempotent tools only.
        cacheable: The same input always gives the same result: a result may be given again.
        roles: Who may see and use it; empty means everybody who may call tools at all.
        tenants: Whose it is to see and use; empty means every tenant.
        tags: Words to find it by.
        grace: How long a call goes on with `cancelled` set in its context before it is stopped: after it was
            cancelled, or before its deadline; up to 10 s.
        memory_bytes: Memory that one child may add; short for the same field of `limits`.
        cpu_s: CPU seconds of one call; short for the same field of `limits`.
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
    queue_timeout: timedelta | None = None
    priority: Priority = Priority.NORMAL
    idempotent: bool = False
    retries: int = 0
    cacheable: bool = False
    roles: Collection[str] = ()
    tenants: Collection[str] = ()
    tags: Sequence[str] = ()
    grace: timedelta = timedelta(0)
    memory_bytes: int | None = None
    cpu_s: float | None = None
    limits: WorkerLimits = WorkerLimits()
    warm_up: Callable[[], Any] | None = None
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values of another type than their options'.

        Raises:
            InvalidTool: One is; it says how to write it.
        """
        check_values(self)

    def changed(self, changes: Mapping[str, Any]) -> ToolOptions:
        """Return these options with others in their place.

        Raises:
            InvalidTool: One of *changes* is no option, or has a value of another type.
        """
        check_names(changes)
        return replace(self, **changes)


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(**options: Any) -> Callable[[F], F]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Mark a function with its `ToolOptions`, which count wherever it is registered.

    Both `@tool` and `@tool(version="2.0.0", ...)` do it.

    Raises:
        InvalidTool: One of *options* is none of `ToolOptions`, or has a value of another type.
    """
    marked = ToolOptions().changed(options)

    def mark(function: F) -> F:
        if not callable(function):
            what = f"@tool marks a function, not {function!r:.80}; its options have names: @tool(version=...)"
            raise InvalidTool(what, value=f"{function!r:.80}")
        setattr(function, _MARK, marked)
        return function

    return mark if function is None else mark(function)


def options_of(function: Callable[..., Any]) -> ToolOptions:
    """Return the options that `tool` gave the function, or the defaults."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, ToolOptions) else ToolOptions()


def is_marked(function: Callable[..., Any]) -> bool:
    """Tell whether `tool` marked the function."""
    return isinstance(getattr(function, _MARK, None), ToolOptions)


def function_tool(name: str, function: Callable[..., Any], options: ToolOptions, server: ForkServer) -> Tool:
    """Make a tool of *function*: `async def` runs in the loop, anything else in a child process.

    Raises:
        InvalidTool: The function, its type hints or an option cannot make a tool.
    """
    schema = FunctionSchema.of(function)
    spec = spec_of(name, function, options, schema)
    runner: Runner
    if spec.runs_in is RunsIn.LOOP:
        runner = InlineRunner(
            name, function, schema, output_bytes=options.limits.output_bytes, grace=options.grace
        )
    else:
        runner = WorkerPool(name, server, _setup(function, options), size=options.concurrency)
    return Tool(spec=spec, runner=runner, checks=SchemaChecks(spec))


def spec_of(
    name: str, function: Callable[..., Any], options: ToolOptions, schema: FunctionSchema
) -> ToolSpec:
    """Return what is told about *function* as the tool *name*.

    Raises:
        InvalidTool: An option is out of range.
    """
    return ToolSpec(
        name=name,
        description=options.description or _summary(function),
        version=options.version,
        input_schema=schema.input,
        output_schema=schema.output,
        default_timeout=min(options.default_timeout, options.max_timeout),
        max_timeout=options.max_timeout,
        concurrency=options.concurrency,
        queue_size=options.queue_size,
        queue_timeout=options.queue_timeout,
        priority=options.priority,
        idempotent=options.idempotent,
        retries=options.retries,
        cacheable=options.cacheable,
        roles=frozenset(options.roles),
        tenants=frozenset(options.tenants),
        tags=tuple(sorted(set(options.tags))),
        streams=schema.streams,
        grace=options.grace,
        runs_in=RunsIn.LOOP if is_async(function) else RunsIn.CHILD,
    )


def limits_of(options: ToolOptions) -> WorkerLimits:
    """Return what one child of the tool may use."""
    limits = options.limits
    if options.memory_bytes is not None:
        limits = replace(limits, memory_bytes=options.memory_bytes)
    if options.cpu_s is not None:
        limits = replace(limits, cpu_s=options.cpu_s)
    if options.grace:
        limits = replace(limits, grace_s=options.grace.total_seconds())
    return limits


def _setup(function: Callable[..., Any], options: ToolOptions) -> WorkerSetup:
    target, script = importable(function)
    warm_up = importable(options.warm_up)[0] if options.warm_up else ""
    return WorkerSetup(target=target, script=script, warm_up=warm_up, limits=limits_of(options))


def _summary(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return " ".join(text.split("\n\n", 1)[0].split())
