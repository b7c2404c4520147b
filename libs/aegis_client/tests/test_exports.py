from __future__ import annotations

import subprocess
import sys

import pytest

import aegis_client

PUBLIC = [
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


def test_the_public_names_are_these() -> None:
    assert sorted(aegis_client.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_can_be_loaded(name: str) -> None:
    assert getattr(aegis_client, name).__module__.startswith("aegis_client")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = aegis_client.nonsense


def test_the_client_stays_light() -> None:
    script = "import sys; from aegis_client import Client; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {
        "flwr",
        "torch",
        "onnxruntime",
        "obstore",
        "pydantic",
        "pydantic_settings",
        "opentelemetry",
        "rich",
    }

    assert set(done.stdout.split()).isdisjoint(heavy)
