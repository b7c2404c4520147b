"""The services of fl_coordinator for the tests of SDK and command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from libs.aegis_client.tests.model_desk import START, refuse

from aegis.fl.v1 import app_service_pb2 as app
from aegis.fl.v1 import app_service_pb2_grpc as app_grpc
from aegis.fl.v1 import node_service_pb2 as node
from aegis.fl.v1 import node_service_pb2_grpc as node_grpc
from aegis.fl.v1 import training_service_pb2 as fl
from aegis.fl.v1 import training_service_pb2_grpc as fl_grpc
from aegis_common.errors import AegisError

Step = fl.WatchTrainingRunResponse | AegisError | grpc.StatusCode | None
"""An event, a fault, or None: nothing happens any more."""


class Nodes(node_grpc.NodeServiceServicer):
    def __init__(self) -> None:
        self.nodes: dict[str, node.Node] = {}

    async def RegisterNode(self, request: Any, context: Any) -> node.RegisterNodeResponse:
        made = node.Node()
        made.CopyFrom(request.node)
        made.name, made.state = f"nodes/{request.node_id}", node.Node.STATE_REGISTERED
        self.nodes[made.name] = made
        return node.RegisterNodeResponse(node=made)

    async def ListNodes(self, request: Any, context: Any) -> node.ListNodesResponse:
        return node.ListNodesResponse(nodes=[self.nodes[name] for name in sorted(self.nodes)])

    async def GetNode(self, request: Any, context: Any) -> node.GetNodeResponse:
        return node.GetNodeResponse(node=self.nodes[request.name])

    async def RemoveNode(self, request: Any, context: Any) -> node.RemoveNodeResponse:
        del self.nodes[request.name]
        return node.RemoveNodeResponse()


class Apps(app_grpc.AppServiceServicer):
    def __init__(self) -> None:
        self.app = app.App(name="apps/own", sha256="a" * 64, state=app.App.STATE_NOT_APPROVED)

    async def ListApps(self, request: Any, context: Any) -> app.ListAppsResponse:
        return app.ListAppsResponse(apps=[self.app])

    async def ApproveApp(self, request: Any, context: Any) -> app.ApproveAppResponse:
        self.app.state, self.app.sha256 = app.App.STATE_APPROVED, request.sha256
        return app.ApproveAppResponse(app=self.app)

    async def RevokeApp(self, request: Any, context: Any) -> app.RevokeAppResponse:
        self.app.state = app.App.STATE_REVOKED
        return app.RevokeAppResponse(app=self.app, cancelled_runs=["trainingRuns/r1"])


class Training(fl_grpc.TrainingServiceServicer):
    """One run; each stream plays the next script and then ends, with a fault where the script has one."""

    def __init__(self) -> None:
        self.created: list[fl.CreateTrainingRunRequest] = []
        self.rounds: dict[str, fl.ListRoundsResponse] = {}
        self.models: dict[int, bytes] = {}
        self.tokens: list[str] = []
        self.scripts: list[list[Step]] = []

    def run(self, state: fl.TrainingRun.State.ValueType = fl.TrainingRun.STATE_RUNNING) -> fl.TrainingRun:
        return fl.TrainingRun(
            name="trainingRuns/r1", app="digits", rounds=3, state=state, trace_id="a" * 32, create_time=START
        )

    async def CreateTrainingRun(self, request: Any, context: Any) -> fl.CreateTrainingRunResponse:
        self.created.append(request)
        return fl.CreateTrainingRunResponse(training_run=self.run(fl.TrainingRun.STATE_PENDING))

    async def GetTrainingRun(self, request: Any, context: Any) -> fl.GetTrainingRunResponse:
        return fl.GetTrainingRunResponse(training_run=self.run())

    async def ListTrainingRuns(self, request: Any, context: Any) -> fl.ListTrainingRunsResponse:
        return fl.ListTrainingRunsResponse(training_runs=[self.run()])

    async def ListRounds(self, request: Any, context: Any) -> fl.ListRoundsResponse:
        return self.rounds.get(request.page_token, fl.ListRoundsResponse())

    async def DownloadModel(self, request: Any, context: Any) -> AsyncIterator[fl.DownloadModelResponse]:
        number = request.round or max(self.models)
        content = self.models[number]
        for piece in (content[request.offset : request.offset + 7], content[request.offset + 7 :]):
            body = HttpBody(data=piece)
            yield fl.DownloadModelResponse(content=body, total_bytes=len(content), round=number)

    async def PauseTrainingRun(self, request: Any, context: Any) -> fl.PauseTrainingRunResponse:
        run = self.run(fl.TrainingRun.STATE_PAUSING)
        run.pause.CopyFrom(fl.Pause(requester="sdk", request_time=START, immediate=request.immediate))
        return fl.PauseTrainingRunResponse(training_run=run)

    async def ResumeTrainingRun(self, request: Any, context: Any) -> fl.ResumeTrainingRunResponse:
        return fl.ResumeTrainingRunResponse(training_run=self.run(fl.TrainingRun.STATE_PENDING))

    async def CancelTrainingRun(self, request: Any, context: Any) -> fl.CancelTrainingRunResponse:
        return fl.CancelTrainingRunResponse(training_run=self.run(fl.TrainingRun.STATE_CANCELLED))

    async def WatchTrainingRun(
        self, request: Any, context: Any
    ) -> AsyncIterator[fl.WatchTrainingRunResponse]:
        self.tokens.append(request.resume_token)
        for step in self.scripts.pop(0):
            if isinstance(step, fl.WatchTrainingRunResponse):
                yield step
            elif step is None:
                await asyncio.Event().wait()
            else:
                await refuse(context, step)
