"""One call of a tool: who makes it, how long it may take, and what it tells while it runs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol

from aegis_agent.domain.artifacts import Artifact
from aegis_agent.domain.usage import Spent
from aegis_common.auth.principal import DEFAULT_TENANT

Arguments = dict[str, Any]
"""Parameter name to value: JSON values, and `bytes` for parameters that take raw bytes."""


class Priority(IntEnum):
    """Class of a call: a waiting one of a higher class starts first. The lower number is the higher class."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


def plain(text: str) -> str:
    """Return *text* without the half characters that UTF-8 cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", plain(self.message))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that the tool wants its caller to see.

    Attributes:
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """

    level: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", plain(self.message))


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
    """A call's way to content that is too large to travel inside it; bound to the caller's tenant."""

    @property
    def max_load_bytes(self) -> int:
        """Most bytes that one call gets out of artifacts at once."""
        ...

    async def describe(self, name: str) -> Artifact:
        """Return what is known about `artifacts/{sha256}`.

        Raises:
            UnknownArtifact: The tenant has none of that name.
            StoreUnavailable: The store does not answer.
        """
        ...

    async def read(self, name: str) -> bytes:
        """Return the content of `artifacts/{sha256}`.

        Raises:
            UnknownArtifact: The tenant has none of that name.
            ArtifactTooLarge: It has more than `max_load_bytes`.
            StoreUnavailable: The store does not answer.
        """
        ...

    async def save(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        """Keep *data* and return its resource name, `artifacts/{sha256}`.

        Raises:
            MediaTypeMismatch: It is of another kind than *media_type* says.
            ArtifactTooLarge, ArtifactQuotaExceeded: There is no room for it.
            StoreUnavailable: The store does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a call that is tried several times knows of the times before.

    Attributes:
        number: 1 for the first time that this work is started, 2 for the next.
        job: Id of the job that it belongs to, or empty.
        checkpoint: What the attempt before saved last, or None.
        spent: Learns what the call uses, also where it fails; None where nobody asks.
    """

    number: int = 1
    job: str = ""
    checkpoint: bytes | None = None
    spent: Spent | None = None


FIRST: Final = Attempt()


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
        spent: Learns what the work uses.
    """

    arguments: Arguments
    caller: Caller
    deadline: float
    attempt: int = 1
    job: str = ""
    checkpoint: bytes | None = None
    sink: Sink = ignore
    artifacts: Artifacts | None = None
    spent: Spent = field(default_factory=Spent)


NOBODY: Final = Caller()
"""The caller of a process that has no callers but itself."""


_end: Final[ContextVar[float]] = ContextVar("aegis_agent_call_end", default=math.inf)


@contextmanager
def within(deadline: float) -> Iterator[None]:
    """Let calls that are made inside end by *deadline*, on the clock of the event loop, seconds."""
    before = _end.set(min(deadline, _end.get()))
    try:
        yield
    finally:
        _end.reset(before)


def outer_end() -> float:
    """Return when the call has to have stopped whose work this is; infinity outside of any call's work."""
    return _end.get()
