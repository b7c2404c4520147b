"""What can go wrong between an agent and its workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from aegis_agent.domain.artifacts import (
    ArtifactQuotaExceeded,
    ArtifactTooLarge,
    NoArtifactStore,
    UnknownArtifact,
)
from aegis_agent.domain.errors import (
    InvalidToolInput,
    InvalidToolOutput,
    ToolCrashed,
    ToolFailed,
    ToolOutputTooLarge,
    ToolTimeout,
)
from aegis_agent.domain.exceeded import (
    ToolCpuExceeded,
    ToolFilesExceeded,
    ToolFileTooLarge,
    ToolLeftProcesses,
    ToolMemoryExceeded,
)
from aegis_common.errors import AegisError, ErrorKind, PermissionDenied, Scope
from aegis_common.rpc.errors import from_status

RETRY_AFTER: Final = timedelta(seconds=2)
_TEXT: Final = 1000
_PAIRS: Final = 16
_TELLABLE: Final[dict[str, type[AegisError]]] = {
    kind.reason: kind
    for kind in (
        ToolFailed,
        ToolCrashed,
        ToolTimeout,
        ToolOutputTooLarge,
        InvalidToolInput,
        InvalidToolOutput,
        ToolCpuExceeded,
        ToolFilesExceeded,
        ToolFileTooLarge,
        ToolLeftProcesses,
        ToolMemoryExceeded,
    )
}
_ASKABLE: Final[dict[str, type[AegisError]]] = {
    kind.reason: kind for kind in (UnknownArtifact, ArtifactTooLarge, ArtifactQuotaExceeded, NoArtifactStore)
}


class WorkerLost(AegisError):
    """The worker went away, or was silent for too long, while it ran the call."""

    kind = ErrorKind.ABORTED
    reason = "WORKER_LOST"


class NoWorker(AegisError):
    """The last worker that had the tool has left before the call began."""

    kind = ErrorKind.UNAVAILABLE
    reason = "NO_WORKER"

    @classmethod
    def of(cls, tool: str) -> NoWorker:
        return cls(
            f"tool {tool!r}: the last worker that brings it has left; the call was not started",
            retry_after=RETRY_AFTER,
            tool=tool,
        )


class WorkerNotAllowed(PermissionDenied):
    reason = "WORKER_NOT_ALLOWED"


class WorkerProtocol(AegisError):
    """The worker sent what must not come."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "WORKER_PROTOCOL"


class WorkerSessionGone(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "WORKER_SESSION_GONE"


class AgentDraining(AegisError):
    """This agent is about to end and takes no more workers."""

    kind = ErrorKind.UNAVAILABLE
    reason = "AGENT_DRAINING"


class TooManyWorkers(AegisError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_WORKERS"
    scope = Scope.REPLICA


def told_by_worker(tool: str, status: status_pb2.Status) -> AegisError:
    """Return the error that a worker reports of a call.

    Only what is a tool's to report counts as such, with the kind that it has here; the rest becomes
    `ToolFailed`.
    """
    return _restored(status, _TELLABLE) or ToolFailed(
        f"tool {tool!r} failed at its worker: {status.message[:_TEXT]}", tool=tool, error="remote"
    )


def told_by_agent(status: status_pb2.Status) -> AegisError:
    """Return the error with which the agent answers what a tool asked for."""
    error = _restored(status, _ASKABLE | _TELLABLE)
    return error or ToolFailed(f"the agent refused: {status.message[:_TEXT]}", error="agent")


def _restored(status: status_pb2.Status, known: dict[str, type[AegisError]]) -> AegisError | None:
    try:
        found = from_status(status)
    except (DecodeError, ValueError, OverflowError):
        return None
    kind = known.get(found.reason)
    if kind is None:
        return None
    pairs = {key[:_TEXT]: value[:_TEXT] for key, value in found.metadata.items()}
    faults = {key[:_TEXT]: value[:_TEXT] for key, value in found.violations.items()}
    error = kind(found.message[:_TEXT], violations=dict(list(faults.items())[:_PAIRS]))
    error.metadata = dict(list(pairs.items())[:_PAIRS])
    return error
