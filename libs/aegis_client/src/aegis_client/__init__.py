"""Python SDK of AEGIS: `Client` and `AsyncClient`, typed results, typed errors.

Names are loaded when first used, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aegis_client.artifact_forms import Artifact
    from aegis_client.carbon import Intensity, ScheduleDecision, ScheduleWindow, Zone
    from aegis_client.carbon_ledger import CarbonStatement, ReportRow, Usage, UsageEntry
    from aegis_client.carbon_places import ResolvedZone, ZoneResolution
    from aegis_client.carbon_plans import (
        Forecast,
        ForecastPart,
        ForecastSlot,
        PastSlot,
        Plan,
        PlannedJob,
        PlanSpan,
    )
    from aegis_client.client import AsyncClient, Client
    from aegis_client.core.retry import RetryPolicy
    from aegis_client.errors import (
        Aborted,
        AegisApiError,
        AegisClientError,
        AlreadyExists,
        Cancelled,
        DataLoss,
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
    from aegis_client.job_forms import Job, JobAttempt, JobEvent, JobExplanation, JobProgress, JobReservation
    from aegis_client.model_forms import Model, ModelCheck, ModelVerification, ModelVersion, Rollback
    from aegis_client.nodes import Node
    from aegis_client.parts import Part
    from aegis_client.profiles import Profile, load_profile, write_profiles
    from aegis_client.publisher_forms import Publisher, PublisherKey
    from aegis_client.replicas import ReplicaStatus
    from aegis_client.reservation_forms import Reservation, ReservationEvent, ReservationSignal
    from aegis_client.reservation_hold import ReservationHold
    from aegis_client.round_forms import (
        Gate,
        ModelPiece,
        NodeFailure,
        NodeOutcome,
        Round,
        RoundEnergy,
        ZoneShare,
    )
    from aegis_client.tool_events import ToolItem, ToolLog, ToolProgress, ToolStarted
    from aegis_client.tool_files import ToolFile
    from aegis_client.tools import Action, Tool, ToolResult
    from aegis_client.trace import last_trace_id, tracing
    from aegis_client.training_apps import Revocation, TrainingApp
    from aegis_client.training_forms import (
        Aggregation,
        CarbonPolicy,
        LocalNoise,
        Pause,
        Privacy,
        RunEvent,
        TrainingRun,
    )

__all__ = [
    "Aborted",
    "Action",
    "AegisApiError",
    "AegisClientError",
    "Aggregation",
    "AlreadyExists",
    "Artifact",
    "AsyncClient",
    "Cancelled",
    "CarbonPolicy",
    "CarbonStatement",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Forecast",
    "ForecastPart",
    "ForecastSlot",
    "Gate",
    "Intensity",
    "InvalidArgument",
    "Job",
    "JobAttempt",
    "JobEvent",
    "JobExplanation",
    "JobProgress",
    "JobReservation",
    "LocalNoise",
    "Model",
    "ModelCheck",
    "ModelPiece",
    "ModelVerification",
    "ModelVersion",
    "Node",
    "NodeFailure",
    "NodeOutcome",
    "NotFound",
    "Part",
    "PastSlot",
    "Pause",
    "PermissionDenied",
    "Plan",
    "PlanSpan",
    "PlannedJob",
    "Privacy",
    "Profile",
    "ProfileError",
    "Publisher",
    "PublisherKey",
    "ReplicaStatus",
    "ReportRow",
    "Reservation",
    "ReservationEvent",
    "ReservationHold",
    "ReservationSignal",
    "ResolvedZone",
    "ResourceExhausted",
    "RetryPolicy",
    "Revocation",
    "Rollback",
    "Round",
    "RoundEnergy",
    "RunEvent",
    "ScheduleDecision",
    "ScheduleWindow",
    "Tool",
    "ToolFile",
    "ToolItem",
    "ToolLog",
    "ToolProgress",
    "ToolResult",
    "ToolStarted",
    "TrainingApp",
    "TrainingRun",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "UsageEntry",
    "UsageError",
    "Zone",
    "ZoneResolution",
    "ZoneShare",
    "last_trace_id",
    "load_profile",
    "tracing",
    "write_profiles",
]

_ERRORS: Final = (
    "Aborted AegisApiError AegisClientError AlreadyExists Cancelled DataLoss DeadlineExceeded "
    "FailedPrecondition InvalidArgument NotFound PermissionDenied ProfileError ResourceExhausted "
    "Unauthenticated Unavailable UsageError"
)
_HOMES: Final = {
    "artifact_forms": "Artifact",
    "carbon": "Intensity ScheduleDecision ScheduleWindow Zone",
    "carbon_ledger": "CarbonStatement ReportRow Usage UsageEntry",
    "carbon_places": "ResolvedZone ZoneResolution",
    "carbon_plans": "Forecast ForecastPart ForecastSlot PastSlot Plan PlanSpan PlannedJob",
    "client": "AsyncClient Client",
    "core.retry": "RetryPolicy",
    "errors": _ERRORS,
    "job_forms": "Job JobAttempt JobEvent JobExplanation JobProgress JobReservation",
    "model_forms": "Model ModelCheck ModelVerification ModelVersion Rollback",
    "nodes": "Node",
    "parts": "Part",
    "profiles": "Profile load_profile write_profiles",
    "publisher_forms": "Publisher PublisherKey",
    "replicas": "ReplicaStatus",
    "reservation_forms": "Reservation ReservationEvent ReservationSignal",
    "reservation_hold": "ReservationHold",
    "round_forms": "Gate ModelPiece NodeFailure NodeOutcome Round RoundEnergy ZoneShare",
    "tool_events": "ToolItem ToolLog ToolProgress ToolStarted",
    "tool_files": "ToolFile",
    "tools": "Action Tool ToolResult",
    "trace": "last_trace_id tracing",
    "training_apps": "Revocation TrainingApp",
    "training_forms": "Aggregation CarbonPolicy LocalNoise Pause Privacy RunEvent TrainingRun",
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
