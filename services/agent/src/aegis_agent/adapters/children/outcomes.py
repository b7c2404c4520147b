"""Turns what a child answered, or how it ended, into a result or the precise error of that call."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import Any, Final

from aegis_agent.adapters.children.setup import HUNG_UP, WorkerLimits
from aegis_agent.adapters.children.worker import Ending
from aegis_agent.domain.errors import (
    InvalidToolInput,
    InvalidToolOutput,
    ToolCrashed,
    ToolFailed,
    ToolOutputTooLarge,
    Violation,
)
from aegis_agent.domain.exceeded import (
    ToolCpuExceeded,
    ToolFilesExceeded,
    ToolFileTooLarge,
    ToolLeftProcesses,
    ToolMemoryExceeded,
)
from aegis_common.errors import AegisError

_NEARLY: Final = 0.9
"""Share of its memory with which a child that died of a bad access has most likely died of want."""
_OF_WANT: Final = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGKILL})
_CPU_SIGNALS: Final = frozenset({signal.SIGXCPU, signal.SIGKILL})
_log: Final = logging.getLogger(__name__)


class Orphaned(ToolCrashed):
    """The child ended because what starts children did; the tool has no part in it."""


class Outcomes:
    """Makes the results and errors of one tool.

    Args:
        tool: Its name.
        limits: What its children may use.
    """

    def __init__(self, tool: str, limits: WorkerLimits) -> None:
        self._tool = tool
        self._limits = limits

    def of_answer(self, answer: dict[str, Any]) -> Any:
        """Return the result, or raise the error, of a call that a child has answered."""
        fault = answer.get("fault")
        if fault is None:
            return answer.get("value")
        try:
            error = self._of_fault(fault)
        except (KeyError, TypeError, ValueError, IndexError) as wrong:
            raise self.crashed("sent nonsense") from wrong
        raise error

    def of_setup_fault(self, fault: dict[str, Any]) -> AegisError:
        """Return the error of a child that could not be set up."""
        kind, message = str(fault.get("type")), str(fault.get("message"))
        trace = str(fault.get("trace"))
        _log.warning("tool cannot be set up", extra={"tool": self._tool, "error": kind, "trace": trace})
        return ToolFailed(
            f"tool {self._tool!r} cannot be set up: {kind}: {message}",
            tool=self._tool,
            error=kind,
            phase="setup",
        )

    def of_ending(self, ending: Ending, *, why: str, first_rss: int) -> AegisError:
        """Return the error of a child that ended before it answered.

        Args:
            ending: How it ended.
            why: How it broke off, in words.
            first_rss: Resident bytes when it was ready.
        """
        limits, left = self._limits, ending.exit
        if ending.cpu_exceeded is not None and limits.cpu_s is not None:
            return ToolCpuExceeded.of(self._tool, limit=limits.cpu_s, measured=ending.cpu_exceeded)
        if ending.stopped:
            return self._by_signal(ending.stopped, f"was stopped by {_name(ending.stopped)}, and killed")
        if left is None:
            return Orphaned(
                f"the child process of tool {self._tool!r} ended with the process that starts children",
                tool=self._tool,
            )
        if ending.program:
            return self.crashed(f"became another program, {ending.program!r}, and was killed")
        if ending.ran:
            return self.crashed(f"{why}, and was killed")
        if left.status == HUNG_UP:
            return self.crashed("closed its connection, and ended")
        if left.status >= 0:
            return self.crashed(f"ended with exit status {left.status}", exit_status=str(left.status))
        number = -left.status
        if number in _CPU_SIGNALS and limits.cpu_s is not None and left.cpu_s >= limits.cpu_s:
            return ToolCpuExceeded.of(self._tool, limit=limits.cpu_s, measured=left.cpu_s)
        added = left.rss - first_rss
        if number in _OF_WANT and limits.memory_bytes is not None and added >= _NEARLY * limits.memory_bytes:
            return ToolMemoryExceeded.of(self._tool, limit=limits.memory_bytes, measured=added)
        hint = ""
        if number == signal.SIGKILL:
            hint = ", which was not the agent's: look for the kernel's out-of-memory killer"
        return self._by_signal(number, f"ended by signal {_name(number)}{hint}", rss_bytes=str(left.rss))

    def crashed(self, what: str, **metadata: str) -> ToolCrashed:
        error = ToolCrashed(f"the child process of tool {self._tool!r} {what}", tool=self._tool)
        error.metadata.update(metadata)
        return error

    def too_large(self, size: int) -> ToolOutputTooLarge:
        return ToolOutputTooLarge.of(self._tool, size_bytes=size, max_bytes=self._limits.output_bytes)

    def _by_signal(self, number: int, what: str, **metadata: str) -> ToolCrashed:
        return self.crashed(what, signal=_name(number), **metadata)

    def _of_fault(self, fault: dict[str, Any]) -> AegisError:
        kind = fault["kind"]
        if kind == "size":
            return self.too_large(int(fault["size"]))
        if kind == "input" and fault["violations"]:
            found = [Violation(str(path), str(rule), str(text)) for path, rule, text in fault["violations"]]
            return InvalidToolInput.of(self._tool, found)
        if kind == "output":
            return InvalidToolOutput.of(self._tool, Violation("", str(fault["rule"]), str(fault["message"])))
        if kind == "processes":
            return ToolLeftProcesses.of(self._tool, [str(name) for name in fault["names"]])
        name, message = str(fault["type"]), str(fault["message"])
        trace = str(fault["trace"])
        _log.warning("tool failed", extra={"tool": self._tool, "error": name, "trace": trace})
        return self._of_limit(kind, fault) or ToolFailed(
            f"tool {self._tool!r} failed: {name}: {message}", tool=self._tool, error=name
        )

    def _of_limit(self, kind: str, fault: dict[str, Any]) -> AegisError | None:
        limits = self._limits
        for name, error, limit in (
            ("memory", ToolMemoryExceeded, limits.memory_bytes),
            ("files", ToolFilesExceeded, limits.open_files),
            ("file_size", ToolFileTooLarge, limits.file_bytes),
        ):
            if kind == name and limit is not None:
                return error.of(self._tool, limit=limit, measured=int(fault["measured"]))
        return None


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return str(number)
