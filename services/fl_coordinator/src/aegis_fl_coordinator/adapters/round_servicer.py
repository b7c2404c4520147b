"""RoundService: what a training app's server process asks and reports, with the token of its run."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aegis.fl.v1 import round_service_pb2 as pb
from aegis.fl.v1 import round_service_pb2_grpc as pb_grpc
from aegis_common.rpc.call import Context, current_call
from aegis_fl_coordinator.adapters.convert import report_from
from aegis_fl_coordinator.domain.admission import Admission
from aegis_fl_coordinator.domain.run import TrainingRun

TOKEN_KEY: Final = "aegis-run-token"  # noqa: S105  # a metadata key
_PATIENCE: Final = timedelta(seconds=10)


class RoundServicer(pb_grpc.RoundServiceServicer):
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def AwaitRound(self, request: pb.AwaitRoundRequest, context: Context) -> pb.AwaitRoundResponse:
        run = self._run(request.training_run)
        patience = min(_PATIENCE, timedelta(seconds=current_call().time_remaining() / 2))
        wait = await self._admission.await_round(
            run.run_id, request.round, nodes_online=request.nodes_online, patience=patience
        )
        answer = pb.AwaitRoundResponse(proceed=wait is None)
        if wait is not None:
            answer.retry_after.FromTimedelta(wait.retry_after)
        return answer

    async def ReportRound(self, request: pb.ReportRoundRequest, context: Context) -> pb.ReportRoundResponse:
        run = self._run(request.training_run)
        self._admission.report(run.run_id, report_from(request.round))
        return pb.ReportRoundResponse()

    def _run(self, name: str) -> TrainingRun:
        tokens = current_call().values(TOKEN_KEY)
        token = tokens[0] if len(tokens) == 1 else ""
        return self._admission.authorised(name.removeprefix("trainingRuns/"), token)
