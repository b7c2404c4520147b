"""What a call of a tool can use too much of; each is the error of that call alone.

Their metadata is `tool`, `limit`, `measured` and `unit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from aegis_common.errors import AegisError, ErrorKind

_NAMES = 5


class ToolLimitExceeded(AegisError):
    """A call went beyond one of its limits, and was stopped or failed; the same call would do so again."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "TOOL_LIMIT_EXCEEDED"

    @classmethod
    def _of(cls, tool: str, message: str, *, limit: float, measured: float, unit: str) -> Self:
        return cls(
            f"tool {tool!r} {message}",
            tool=tool,
            limit=f"{limit:.15g}",
            measured=f"{measured:.15g}",
            unit=unit,
        )


class ToolMemoryExceeded(ToolLimitExceeded):
    reason = "TOOL_MEMORY_EXCEEDED"

    @classmethod
    def of(cls, tool: str, *, limit: int, measured: int) -> ToolMemoryExceeded:
        """Build the error; *measured* is the most that the child held, without what it was refused."""
        return cls._of(
            tool,
            f"needs more memory than its {limit} bytes; it held {measured} bytes",
            limit=limit,
            measured=measured,
            unit="bytes",
        )


class ToolCpuExceeded(ToolLimitExceeded):
    reason = "TOOL_CPU_EXCEEDED"

    @classmethod
    def of(cls, tool: str, *, limit: float, measured: float) -> ToolCpuExceeded:
        return cls._of(
            tool,
            f"used {measured:.3f} s of CPU time and was stopped; it has {limit:g} s",
            limit=limit,
            measured=round(measured, 3),
            unit="s",
        )


class ToolFilesExceeded(ToolLimitExceeded):
    reason = "TOOL_FILES_EXCEEDED"

    @classmethod
    def of(cls, tool: str, *, limit: int, measured: int) -> ToolFilesExceeded:
        return cls._of(
            tool,
            f"opened more files and sockets than its {limit}",
            limit=limit,
            measured=measured,
            unit="descriptors",
        )


class ToolFileTooLarge(ToolLimitExceeded):
    reason = "TOOL_FILE_TOO_LARGE"

    @classmethod
    def of(cls, tool: str, *, limit: int, measured: int) -> ToolFileTooLarge:
        return cls._of(
            tool, f"wrote a file beyond its {limit} bytes", limit=limit, measured=measured, unit="bytes"
        )


class ToolLeftProcesses(ToolLimitExceeded):
    """The tool answered and left processes running; they were killed."""

    reason = "TOOL_LEFT_PROCESSES"

    @classmethod
    def of(cls, tool: str, names: Sequence[str]) -> ToolLeftProcesses:
        told = ", ".join(names[:_NAMES])
        return cls._of(
            tool,
            f"left {len(names)} processes running, which were killed: {told}; "
            "it must end what it starts, or start it in its warm-up",
            limit=0,
            measured=len(names),
            unit="processes",
        )
