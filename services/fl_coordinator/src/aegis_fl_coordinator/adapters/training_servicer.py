"""TrainingService: protobuf in, domain, protobuf out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from aegis.fl.v1 import training_service_pb2 as pb
from aegis.fl.v1 import training_service_pb2_grpc as pb_grpc
from aegis_common.paging import DEFAULT_PAGE_SIZE, page, place_of, token_of
from aegis_common.rpc.call import Call, Context, current_call
from aegis_fl_coordinator.adapters.convert import asked, round_message, run_message, spec_from
from aegis_fl_coordinator.adapters.model_pieces import pieces
from aegis_fl_coordinator.adapters.run_folders import VolumeFolders
from aegis_fl_coordinator.adapters.watch import Watcher
from aegis_fl_coordinator.domain.run import TrainingRun
from aegis_fl_coordinator.domain.supervisor import Supervisor
from aegis_fl_coordinator.domain.training import Creator, Training


class TrainingServicer(pb_grpc.TrainingServiceServicer):
    def __init__(
        self, training: Training, supervisor: Supervisor, watcher: Watcher, folders: VolumeFolders
    ) -> None:
        self._folders = folders
        self._training = training
        self._supervisor = supervisor
        self._watcher = watcher

    async def CreateTrainingRun(
        self, request: pb.CreateTrainingRunRequest, context: Context
    ) -> pb.CreateTrainingRunResponse:
        run = await self._training.create(
            spec_from(request.training_run),
            creator=_creator(current_call()),
            request_id=request.request_id,
            asked=asked(request.training_run),
        )
        self._supervisor.watch(run.run_id)
        return pb.CreateTrainingRunResponse(training_run=run_message(run))

    async def GetTrainingRun(
        self, request: pb.GetTrainingRunRequest, context: Context
    ) -> pb.GetTrainingRunResponse:
        run = self._training.get(current_call().principal.tenant, run_id(request.name))
        return pb.GetTrainingRunResponse(training_run=run_message(run))

    async def ListTrainingRuns(
        self, request: pb.ListTrainingRunsRequest, context: Context
    ) -> pb.ListTrainingRunsResponse:
        tenant = current_call().principal.tenant
        runs, token = page(
            self._training.list(tenant),
            key=_newest_first,
            size=request.page_size,
            token=request.page_token,
            query=f"trainingRuns of {tenant}",
        )
        return pb.ListTrainingRunsResponse(
            training_runs=[run_message(run) for run in runs], next_page_token=token
        )

    async def ListRounds(self, request: pb.ListRoundsRequest, context: Context) -> pb.ListRoundsResponse:
        tenant = current_call().principal.tenant
        query = f"rounds of {request.parent} of {tenant}"
        after = int(place_of(request.page_token, query)) if request.page_token else 0
        rounds, more = self._training.rounds(
            tenant, run_id(request.parent), after=after, most=request.page_size or DEFAULT_PAGE_SIZE
        )
        return pb.ListRoundsResponse(
            rounds=map(round_message, rounds),
            next_page_token=token_of(str(rounds[-1].number), query) if more else "",
        )

    async def DownloadModel(
        self, request: pb.DownloadModelRequest, context: Context
    ) -> AsyncIterator[pb.DownloadModelResponse]:
        run = self._training.get(current_call().principal.tenant, run_id(request.name))
        async for piece in pieces(self._folders, run, request):
            yield piece

    async def CancelTrainingRun(
        self, request: pb.CancelTrainingRunRequest, context: Context
    ) -> pb.CancelTrainingRunResponse:
        run = self._training.cancel(current_call().principal.tenant, run_id(request.name))
        self._supervisor.watch(run.run_id)
        return pb.CancelTrainingRunResponse(training_run=run_message(run))

    async def PauseTrainingRun(
        self, request: pb.PauseTrainingRunRequest, context: Context
    ) -> pb.PauseTrainingRunResponse:
        caller = current_call().principal
        run = self._training.pause(
            caller.tenant, run_id(request.name), requester=caller.subject, immediate=request.immediate
        )
        return pb.PauseTrainingRunResponse(training_run=run_message(run))

    async def ResumeTrainingRun(
        self, request: pb.ResumeTrainingRunRequest, context: Context
    ) -> pb.ResumeTrainingRunResponse:
        caller = current_call().principal
        run = await self._training.resume(caller.tenant, run_id(request.name), requester=caller.subject)
        self._supervisor.watch(run.run_id)
        return pb.ResumeTrainingRunResponse(training_run=run_message(run))

    async def WatchTrainingRun(
        self, request: pb.WatchTrainingRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingRunResponse]:
        call = current_call()
        run = self._training.get(call.principal.tenant, run_id(request.name))
        events = self._watcher.watch(
            run, resume_token=request.resume_token, time_remaining=call.time_remaining
        )
        async for event in events:
            yield event


def run_id(name: str) -> str:
    """Return the id of a run from its resource name, which validation has checked."""
    return name.removeprefix("trainingRuns/")


def _newest_first(run: TrainingRun) -> str:
    # Page keys ascend; run ids begin with their time of creation.
    return "".join(chr(0x7F - ord(char)) for char in run.run_id)


def _creator(call: Call) -> Creator:
    principal = call.principal
    traceparent = call.traceparent or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return Creator(principal.tenant, principal.subject, principal.to_record(), traceparent)
