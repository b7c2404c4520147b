"""One call of a tool: who makes it, how long it may take, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aegis_common.auth.principal import DEFAULT_TENANT

Arguments = dict[str, Any]
"""Parameter name to value: JSON values, and `bytes` for parameters that take raw bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """For whom a call is made.

    Attributes:
        tenant: Owner of what the call reads and writes; it decides which tools and models are visible.
        subject: The user or the machine, or empty.
        roles: What the caller may do.
    """

    tenant: str = DEFAULT_TENANT
    subject: str = ""
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the work has come.

    Attributes:
        done: Units that are done; 0 and up.
        total: Units in all, or None when nobody knows.
        message: What it does now, for people.
    """

    done: float
    total: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that the tool wants its caller to see.

    Attributes:
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """

    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """One item that a streaming tool yielded: JSON values and bytes."""

    value: Any


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State from which the next attempt of a job can go on."""

    data: bytes


Event = Progress | LogLine | Chunk | Checkpoint
Sink = Callable[[Event], Awaitable[None]]
"""Takes an event. The tool goes on when it returns: a slow reader slows the tool, and bounds memory."""


async def ignore(_: Event) -> None:
    """Take an event that nobody waits for."""


class Artifacts(Protocol):
    """A tool's way to content that is too large to travel inside a call; bound to the caller's tenant."""

    async def read(self, name: str) -> bytes:
        """Return the content of `artifacts/{id}`.

        Raises:
            AegisError: `UNKNOWN_ARTIFACT`, or the store cannot be reached.
        """
        ...

    async def save(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        """Keep *data* and return its resource name, `artifacts/{id}`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a runner gets.

    Attributes:
        arguments: Checked against the tool's input schema.
        deadline: When the work has to have stopped, on the clock of the event loop (`loop.time()`), seconds.
        attempt: 1 for the first time that this work is started, 2 for the next.
        job: Id of the job that it belongs to, or empty.
        checkpoint: What the attempt before saved last, or None.
        sink: Takes what the tool tells while it runs.
        artifacts: None where there is no artifact store.
    """

    arguments: Arguments
    caller: Caller
    deadline: float
    attempt: int = 1
    job: str = ""
    checkpoint: bytes | None = None
    sink: Sink = ignore
    artifacts: Artifacts | None = None


NOBODY: Final = Caller()
"""The caller of a process that has no callers but itself."""
