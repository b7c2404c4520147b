"""Tools: what they take and give, within which limits, and what runs them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Protocol

from aegis_agent.domain.call import Arguments, Call, Priority
from aegis_agent.domain.errors import InvalidTool
from aegis_agent.domain.schema import holds_artifact

JsonSchema = Mapping[str, Any]

MAX_TIMEOUT: Final = timedelta(minutes=10)
"""Longest deadline of a call that is no job."""
MAX_JOB_TIMEOUT: Final = timedelta(hours=24)
"""Longest time of one attempt of a job."""
MAX_RETRIES: Final = 5
MAX_GRACE: Final = timedelta(seconds=10)
NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}")


class RunsIn(Enum):
    """Where a tool's code runs."""

    LOOP = "loop"
    """In the agent's event loop; for `async def` tools that only wait."""
    CHILD = "child"
    """In a child process, killed at the deadline or when the caller goes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What is told about a tool.

    Attributes:
        name: Lower-case letters, digits, `_`, `.` and `-`; 1 to 63, first a letter.
        input_schema: JSON Schema 2020-12 of the arguments, an object.
        output_schema: JSON Schema 2020-12 of the result.
        default_timeout: Deadline of a call that brings none.
        max_timeout: Longest deadline of a call, and time of an attempt of a job; up to 24 hours, of which
            calls that are no jobs have 10 minutes at most.
        concurrency: Most calls that run at once in this process; 1 and up.
        queue_size: Most calls that wait for a slot in this process; 0 and up.
        queue_timeout: Longest time that a call waits for a slot; None means as long as its deadline lets it.
        priority: Class of its calls that name none.
        idempotent: Running it again with the same input does no harm.
        retries: How often a call whose process died is started again; 0 to 5, idempotent tools only. Jobs
            have retries of their own.
        cacheable: The same input always gives the same result, so that a result can be given again.
        roles: Who may see and use it; empty means everybody who may call tools at all.
        tenants: Whose it is to see and use; empty means every tenant.
        tags: Words to find it by.
        streams: It gives its result item by item; the output schema is that of the list of them.
        grace: How long a call that was cancelled, or whose deadline is near, may tidy up; up to 10 s.
        model: Id of the model that it serves, or empty.
    """

    name: str
    description: str
    version: str
    input_schema: JsonSchema
    output_schema: JsonSchema
    default_timeout: timedelta = timedelta(seconds=30)
    max_timeout: timedelta = MAX_TIMEOUT
    concurrency: int = 2
    queue_size: int = 16
    queue_timeout: timedelta | None = None
    priority: Priority = Priority.NORMAL
    idempotent: bool = False
    retries: int = 0
    cacheable: bool = False
    roles: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()
    streams: bool = False
    grace: timedelta = timedelta(0)
    model: str = ""
    runs_in: RunsIn = RunsIn.CHILD

    def __post_init__(self) -> None:
        """Refuse what no call could work with.

        Raises:
            InvalidTool: A name or limit is out of range.
        """
        zero = timedelta(0)
        for wrong, what in (
            (
                not NAME.fullmatch(self.name),
                "its name is not 1 to 63 of a-z, 0-9, '_', '.', '-', first a letter",
            ),
            (
                not zero < self.max_timeout <= MAX_JOB_TIMEOUT,
                "max_timeout is not above 0 and at most 24 hours",
            ),
            (
                not zero < self.default_timeout <= self.max_timeout,
                "default_timeout is not in 0 to max_timeout",
            ),
            (self.concurrency < 1, "concurrency is below 1"),
            (self.queue_size < 0, "queue_size is below 0"),
            (self.queue_timeout is not None and self.queue_timeout <= zero, "queue_timeout is not above 0"),
            (not 0 <= self.retries <= MAX_RETRIES, "retries is not in 0 to 5"),
            (
                self.retries and not self.idempotent,
                "it is not idempotent, and only idempotent tools are started again: leave retries at 0",
            ),
            (
                self.cacheable and self.streams,
                "it gives its result item by item, and only whole results are cached",
            ),
            (
                self.cacheable and holds_artifact(self.output_schema, self.output_schema),
                "its result names an artifact, and a cached result would outlive what it names",
            ),
            (not zero <= self.grace <= MAX_GRACE, "grace is not in 0 to 10 seconds"),
        ):
            if wrong:
                raise InvalidTool(f"tool {self.name!r}: {what}", tool=self.name)


class Runner(Protocol):
    """Runs the calls of one tool."""

    async def run(self, call: Call) -> Any:
        """Run one call and return its result: JSON values and bytes.

        What the tool tells meanwhile goes to the call's sink; a streaming tool gives its items there, as
        `Chunk`, and returns None. When it is cancelled, the work stops before it returns.

        Raises:
            ToolFailed: The tool reported an error.
            ToolCrashed: Its process died.
            ToolOutputTooLarge: The result is beyond the limit.
            InvalidToolInput: The tool refused the input.
            InvalidToolOutput: The result has no JSON form.
        """
        ...

    async def close(self) -> None:
        """Stop whatever still runs and free everything."""
        ...


class Checks(Protocol):
    """Checks what goes into a tool and what comes out of it."""

    def input(self, arguments: Arguments) -> Arguments:
        """Return *arguments* with base64 text turned into bytes.

        Raises:
            InvalidToolInput: They do not fit the tool's input schema.
        """
        ...

    def output(self, value: Any) -> None:
        """Check a result.

        Raises:
            InvalidToolOutput: It does not fit the tool's output schema.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that can be called.

    Attributes:
        warnings: What every caller of this tool should know about its results.
        model_version: Id of the model version that answers, or empty.
        at_workers: Whether remote workers run it: its concurrency is that of each of them.
    """

    spec: ToolSpec
    runner: Runner
    checks: Checks
    warnings: tuple[str, ...] = ()
    model_version: str = ""
    at_workers: bool = False


ToolFactory = Callable[[], Tool]
