"""What can go wrong with tools, models and their calls."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from aegis_common.errors import AegisError, ErrorKind, Scope

_MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault in a tool's input or output.

    Attributes:
        path: Where, for example `image` or `items[2].name`; empty means the value as a whole.
        rule: Which rule it breaks: a JSON Schema keyword, or a name of the tool's own.
        message: What is wrong and how to mend it.
    """

    path: str
    rule: str
    message: str


class UnknownTool(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_TOOL"

    @classmethod
    def named(cls, name: str, known: Iterable[str]) -> UnknownTool:
        """Build the error for *name*, with the *known* names that come near."""
        near = _close(name, known)
        name = name[:_MAX_NAME]
        return cls(f"tool {name!r} does not exist{_near(near)}", tool=name, near=", ".join(near))


class InvalidToolInput(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_TOOL_INPUT"

    @classmethod
    def of(cls, tool: str, violations: Sequence[Violation]) -> InvalidToolInput:
        """Build the error for one or more *violations*; the first one leads."""
        first = violations[0]
        where = first.path or "the input"
        return cls(
            f"tool {tool!r}: {where}: {first.message}",
            violations={
                item.path or "input": f"{item.rule}: {item.message}" for item in reversed(violations)
            },
            tool=tool,
            path=first.path,
            rule=first.rule,
        )


class InvalidToolOutput(AegisError):
    """The tool broke its own schema, or returned something that JSON has no form for."""

    kind = ErrorKind.INTERNAL
    reason = "INVALID_TOOL_OUTPUT"

    @classmethod
    def of(cls, tool: str, violation: Violation) -> InvalidToolOutput:
        where = violation.path or "the result"
        return cls(
            f"tool {tool!r} returned what it must not: {where}: {violation.message}",
            tool=tool,
            path=violation.path,
            rule=violation.rule,
        )


class ToolNotAllowed(AegisError):
    """The tool exists, and is for other roles."""

    kind = ErrorKind.PERMISSION_DENIED
    reason = "TOOL_NOT_ALLOWED"

    @classmethod
    def of(cls, tool: str, roles: Iterable[str]) -> ToolNotAllowed:
        wanted = ", ".join(sorted(roles))
        return cls(f"tool {tool!r} is for the roles {wanted}; you have none of them", tool=tool, roles=wanted)


class ToolTimeout(AegisError):
    """The call's time is over; its work has been stopped, or was never started."""

    kind = ErrorKind.DEADLINE_EXCEEDED
    reason = "TOOL_TIMEOUT"

    @classmethod
    def of(
        cls, tool: str, limit: timedelta, *, running: bool, longest: timedelta | None = None
    ) -> ToolTimeout:
        """Build the error of a call that had *limit*; *longest* is what the tool lets any call have."""
        seconds = f"{limit.total_seconds():g}"
        what = "did not finish and was stopped" if running else "got no free slot and was not started"
        at_most = longest is not None and limit >= longest
        error = cls(
            f"tool {tool!r} {what} within {seconds} s{', the longest time of its calls' if at_most else ''}",
            tool=tool,
            timeout_s=seconds,
            phase="run" if running else "queue",
        )
        if longest is not None:
            error.metadata["max_timeout_s"] = f"{longest.total_seconds():g}"
        return error

    @classmethod
    def too_short(cls, tool: str, *, left_s: float, needed_s: float) -> ToolTimeout:
        """Build the error of a call that was not started because it has too little time left."""
        left, needed = f"{max(left_s, 0):.3g}", f"{needed_s:.3g}"
        return cls(
            f"tool {tool!r} takes {needed} s or more nine times in ten; {left} s were left, and it was not "
            "started",
            tool=tool,
            timeout_s=left,
            needed_s=needed,
            phase="queue",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """The state of a tool's queue in this agent process, for a caller that is sent away.

    Attributes:
        running: Calls that run.
        waiting: Calls that wait.
        wait_s: How long a further call of this caller would wait, about; None while nothing is measured.
        retry_after: When trying again may help.
    """

    running: int
    waiting: int
    concurrency: int
    queue_size: int
    wait_s: float | None
    retry_after: timedelta

    def told(self) -> str:
        return f"{self.running} calls run and {self.waiting} wait in this agent"

    def metadata(self) -> dict[str, str]:
        return {
            "running": str(self.running),
            "waiting": str(self.waiting),
            "concurrency": str(self.concurrency),
            "queue_size": str(self.queue_size),
            "wait_estimate_s": "unknown" if self.wait_s is None else f"{self.wait_s:.3g}",
        }


class ToolQueueFull(AegisError):
    """As many calls wait as may, or another call has taken this one's place in the queue."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOOL_QUEUE_FULL"
    scope = Scope.REPLICA

    @classmethod
    def of(cls, tool: str, facts: QueueFacts, *, pushed_out: bool = False) -> ToolQueueFull:
        why = "its place in the queue went to a call that has precedence: " if pushed_out else ""
        return cls(
            f"tool {tool!r}: {why}{facts.told()}; try again later",
            violations=None,
            retry_after=facts.retry_after,
            tool=tool,
            pushed_out="yes" if pushed_out else "no",
            **facts.metadata(),
        )


class ToolOverloaded(AegisError):
    """The wait is longer than the call has time; it is not let in."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOOL_OVERLOADED"
    scope = Scope.REPLICA

    @classmethod
    def of(cls, tool: str, facts: QueueFacts, *, left_s: float, needed_s: float) -> ToolOverloaded:
        left, needed = f"{left_s:.3g}", f"{needed_s:.3g}"
        return cls(
            f"tool {tool!r} would answer after about {needed} s, the wait included; the call has {left} s: "
            f"{facts.told()}; try again later, or give it more time",
            violations=None,
            retry_after=facts.retry_after,
            tool=tool,
            timeout_s=left,
            needed_s=needed,
            **facts.metadata(),
        )


class ToolQueueTimeout(AegisError):
    """The call has waited as long as calls of this tool may."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOOL_QUEUE_TIMEOUT"
    scope = Scope.REPLICA

    @classmethod
    def of(cls, tool: str, facts: QueueFacts, *, limit: timedelta) -> ToolQueueTimeout:
        seconds = f"{limit.total_seconds():g}"
        return cls(
            f"tool {tool!r} had no free slot for {seconds} s: {facts.told()}; try again later",
            violations=None,
            retry_after=facts.retry_after,
            tool=tool,
            queue_timeout_s=seconds,
            **facts.metadata(),
        )


class ToolOutputTooLarge(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "TOOL_OUTPUT_TOO_LARGE"
    scope = Scope.CALL

    @classmethod
    def of(cls, tool: str, *, size_bytes: int, max_bytes: int) -> ToolOutputTooLarge:
        return cls(
            f"tool {tool!r} returned {size_bytes} bytes; at most {max_bytes} are passed on: "
            "let it save an artifact by its context, or raise its limits' output_bytes",
            tool=tool,
            size_bytes=str(size_bytes),
            max_bytes=str(max_bytes),
        )


class ToolCrashed(AegisError):
    """The child process that ran the call ended before it answered."""

    kind = ErrorKind.ABORTED
    reason = "TOOL_CRASHED"


class ToolFailed(AegisError):
    """The tool itself reported an error."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "TOOL_FAILED"


class ToolNameTaken(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "TOOL_NAME_TAKEN"


class InvalidTool(AegisError):
    """What was registered cannot be a tool."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_TOOL"


class ManagerClosed(AegisError):
    """The manager of tools has been closed, and its children with it."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MANAGER_CLOSED"


class AgentInternal(AegisError):
    """A fault of the agent itself; the log has its cause."""

    kind = ErrorKind.INTERNAL
    reason = "INTERNAL"


class UnknownModel(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_MODEL"

    @classmethod
    def named(cls, name: str, known: Iterable[str]) -> UnknownModel:
        near = _close(name, known)
        name = name[:_MAX_NAME]
        return cls(f"model {name!r} does not exist{_near(near)}", model=name, near=", ".join(near))


class UnknownModelVersion(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_MODEL_VERSION"


class ModelNotLoadable(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_NOT_LOADABLE"


def _close(name: str, known: Iterable[str]) -> list[str]:
    if len(name) > _MAX_NAME:
        return []  # looking for what comes near takes time that grows with the length
    return difflib.get_close_matches(name, sorted(known), n=3)


def _near(names: Sequence[str]) -> str:
    return f"; near: {', '.join(names)}" if names else ""
