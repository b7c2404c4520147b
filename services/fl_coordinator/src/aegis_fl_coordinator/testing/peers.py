"""The services beside the coordinator, a few lines each, behind the real chain."""

from __future__ import annotations

from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis.agent.v1 import model_service_pb2_grpc as model_grpc
from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.carbon.v1 import ledger_service_pb2 as ledger_pb
from aegis.carbon.v1 import ledger_service_pb2_grpc as ledger_grpc
from aegis_common.rpc.call import Call, Context, current_call
from aegis_fl_coordinator.domain.errors import EngineUnavailable


class Carbon(carbon_grpc.CarbonServiceServicer):
    """A carbon service that answers as it is told; None fails the call with *failure*."""

    def __init__(self) -> None:
        self.answer: carbon_pb.CheckScheduleResponse | None = clean_grid()
        self.failure: Exception = RuntimeError("no carbon")
        self.zones: dict[str, carbon_pb.CheckScheduleResponse] = {}
        """Answers for some zones; the others get *answer*."""
        self.calls: list[tuple[carbon_pb.CheckScheduleRequest, Call]] = []
        self.ledger = Ledger()  # type: ignore[abstract]  # nothing else is called
        self.port = 0

    async def CheckSchedule(  # noqa: N802
        self,
        request: carbon_pb.CheckScheduleRequest,
        context: Context,  # noqa: ARG002
    ) -> carbon_pb.CheckScheduleResponse:
        self.calls.append((request, current_call()))
        if self.answer is None:
            raise self.failure
        return self.zones.get(request.zone, self.answer)


class Ledger(ledger_grpc.LedgerServiceServicer):
    """A ledger that answers 1 Wh and half a gram to each usage, unless it is away."""

    def __init__(self) -> None:
        self.usages: list[tuple[str, ledger_pb.Usage]] = []
        self.away = False

    async def RecordUsage(  # noqa: N802
        self,
        request: ledger_pb.RecordUsageRequest,
        context: Context,  # noqa: ARG002
    ) -> ledger_pb.RecordUsageResponse:
        if self.away:
            raise EngineUnavailable("the ledger is away")
        tenant = current_call().principal.tenant
        self.usages += [(tenant, usage) for usage in request.usages]
        entry = ledger_pb.UsageEntry(kwh=0.001, kwh_low=0.0005, kwh_high=0.002, estimated=True)
        entry.statements.add(grams=0.5)
        return ledger_pb.RecordUsageResponse(
            outcomes=[ledger_pb.UsageOutcome(entry=entry) for _ in request.usages]
        )


def clean_grid() -> carbon_pb.CheckScheduleResponse:
    return carbon_pb.CheckScheduleResponse(
        decision=carbon_pb.DECISION_RUN_NOW,
        reason=carbon_pb.REASON_BELOW_THRESHOLD,
        intensity=carbon_pb.Intensity(zone="zones/GB", g_per_kwh=90.0, source="replay"),
        threshold_g_per_kwh=150.0,
    )


def dirty_grid(retry_after_s: float = 0.2) -> carbon_pb.CheckScheduleResponse:
    answer = carbon_pb.CheckScheduleResponse(
        decision=carbon_pb.DECISION_WAIT,
        reason=carbon_pb.REASON_ABOVE_THRESHOLD,
        intensity=carbon_pb.Intensity(zone="zones/GB", g_per_kwh=400.0, source="replay"),
        threshold_g_per_kwh=150.0,
    )
    answer.retry_after.FromMilliseconds(int(retry_after_s * 1000))
    return answer


class Agent(model_grpc.ModelServiceServicer):
    """An agent that takes what is published; *failure* fails the next call."""

    def __init__(self) -> None:
        self.published: list[tuple[model_pb.PublishModelVersionRequest, Call]] = []
        self.failure: Exception | None = None
        self.port = 0

    async def PublishModelVersion(  # noqa: N802
        self,
        request: model_pb.PublishModelVersionRequest,
        context: Context,  # noqa: ARG002
    ) -> model_pb.PublishModelVersionResponse:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self.published.append((request, current_call()))
        version = model_pb.ModelVersion(name=f"{request.parent}/versions/{request.version}")
        return model_pb.PublishModelVersionResponse(model_version=version)
