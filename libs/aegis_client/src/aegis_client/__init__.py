"""Python SDK of AEGIS: `Client` and `AsyncClient`, typed results, typed errors.

Names are loaded when first used, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aegis_client.carbon import Intensity, ScheduleDecision, Zone
    from aegis_client.client import AsyncClient, Client
    from aegis_client.core.retry import RetryPolicy
    from aegis_client.errors import (
        Aborted,
        AegisApiError,
        AegisClientError,
        AlreadyExists,
        Cancelled,
        DeadlineExceeded,
        FailedPrecondition,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ProfileError,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        UsageError,
    )
    from aegis_client.models import Model, ModelVersion
    from aegis_client.nodes import Node
    from aegis_client.parts import Part
    from aegis_client.profiles import Profile, load_profile, write_profiles
    from aegis_client.tools import Action, Tool, ToolResult
    from aegis_client.trace import last_trace_id, tracing
    from aegis_client.training import Gate, NodeFailure, Round, RunEvent, TrainingRun

__all__ = [
    "Aborted",
    "Action",
    "AegisApiError",
    "AegisClientError",
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Gate",
    "Intensity",
    "InvalidArgument",
    "Model",
    "ModelVersion",
    "Node",
    "NodeFailure",
    "NotFound",
    "Part",
    "PermissionDenied",
    "Profile",
    "ProfileError",
    "ResourceExhausted",
    "RetryPolicy",
    "Round",
    "RunEvent",
    "ScheduleDecision",
    "Tool",
    "ToolResult",
    "TrainingRun",
    "Unauthenticated",
    "Unavailable",
    "UsageError",
    "Zone",
    "last_trace_id",
    "load_profile",
    "tracing",
    "write_profiles",
]

_ERRORS: Final = (
    "Aborted AegisApiError AegisClientError AlreadyExists Cancelled DeadlineExceeded FailedPrecondition "
    "InvalidArgument NotFound PermissionDenied ProfileError ResourceExhausted Unauthenticated Unavailable "
    "UsageError"
)
_HOMES: Final = {
    "carbon": "Intensity ScheduleDecision Zone",
    "client": "AsyncClient Client",
    "core.retry": "RetryPolicy",
    "errors": _ERRORS,
    "models": "Model ModelVersion",
    "nodes": "Node",
    "parts": "Part",
    "profiles": "Profile load_profile write_profiles",
    "tools": "Action Tool ToolResult",
    "trace": "last_trace_id tracing",
    "training": "Gate NodeFailure Round RunEvent TrainingRun",
}
_HOME: Final = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
