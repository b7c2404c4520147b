"""A small deployment behind real TLS, in a thread of its own, whose faults the tests order."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from libs.aegis_client.tests import model_desk, tool_desk, training_desk
from libs.aegis_client.tests.model_desk import refuse

from aegis.agent.v1 import agent_service_pb2 as agent
from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1 import artifact_service_pb2_grpc as artifact_grpc
from aegis.agent.v1 import model_service_pb2_grpc as model_grpc
from aegis.agent.v1 import publisher_service_pb2_grpc as publisher_grpc
from aegis.agent.v1 import tool_file_service_pb2_grpc as tool_file_grpc
from aegis.carbon.v1 import carbon_service_pb2 as carbon
from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.fl.v1 import app_service_pb2_grpc as app_grpc
from aegis.fl.v1 import node_service_pb2_grpc as node_grpc
from aegis.fl.v1 import training_service_pb2_grpc as fl_grpc
from aegis_client import Client, Profile, RetryPolicy
from aegis_client.cli.app import run
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.rpc.errors import to_status
from aegis_common.testing.pki import Mesh

QUICK = RetryPolicy(first_delay_s=0.01, max_delay_s=0.05)
START = model_desk.START


class UnknownTool(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_TOOL"


class Faults(grpc.aio.ServerInterceptor):
    """Notes each call, and refuses those that a test ordered to fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.orders: dict[str, list[AegisError | grpc.StatusCode]] = defaultdict(list)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        metadata = {key: str(value) for key, value in handler_call_details.invocation_metadata}
        self.calls.append((method, metadata))
        handler = await continuation(handler_call_details)
        if not self.orders[method]:
            return handler
        error = self.orders[method].pop(0)

        async def fail(_request: Any, context: Any) -> None:
            await refuse(context, error)

        async def fail_stream(_request: Any, context: Any) -> AsyncIterator[Any]:
            await refuse(context, error)
            yield None

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                fail_stream, handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            fail, handler.request_deserializer, handler.response_serializer
        )


class Agent(agent_grpc.AgentServiceServicer):
    """`echo` gives back what it gets; 5 tools in pages of 2; `sleep` takes as long as its deadline allows."""

    def __init__(self) -> None:
        self.remaining: list[float] = []
        self.idempotent: set[str] = set()
        self.streamed: list[agent.DispatchStreamRequest] = []
        self.cancelled = threading.Event()

    async def ListTools(self, request: Any, context: Any) -> agent.ListToolsResponse:
        start = int(request.page_token or 0)
        tools = [agent.Tool(name=f"tools/t{number}") for number in range(5)]
        after = str(start + 2) if start + 2 < len(tools) else ""
        return agent.ListToolsResponse(tools=tools[start : start + 2], next_page_token=after)

    async def GetTool(self, request: Any, context: Any) -> agent.GetToolResponse:
        tool = agent.Tool(
            name=request.name, version="1.0.0", concurrency=2, default_timeout=Duration(seconds=9)
        )
        tool.idempotent = request.name in self.idempotent
        tool.input_schema.update({"type": "object", "maxProperties": 3})
        return agent.GetToolResponse(tool=tool)

    async def Dispatch(self, request: Any, context: Any) -> agent.DispatchResponse:
        self.remaining.append(context.time_remaining())
        if request.tool == "tools/sleep":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if request.tool != "tools/echo":
            error = UnknownTool(f"tool {request.tool} is unknown", tool=request.tool)
            await refuse(context, error)
        return agent.DispatchResponse(
            result=request.payload, tool=request.tool, tool_version="1.0.0", warnings=["an echo"]
        )

    async def DispatchStream(self, request: Any, context: Any) -> AsyncIterator[agent.DispatchStreamResponse]:
        """`echo` tells something of each kind, `stumble` an error; `break` just ends, `sleep` waits."""
        self.streamed.append(request)
        if request.tool == "tools/nobody":
            await refuse(context, UnknownTool(f"tool {request.tool} is unknown", tool=request.tool))
        yield agent.DispatchStreamResponse(
            started=agent.CallStarted(tool=request.tool, tool_version="1.0.0", queue_time=Duration(seconds=1))
        )
        if request.tool == "tools/sleep":
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled.set()
        yield agent.DispatchStreamResponse(progress=agent.CallProgress(done=1, total=2, message="half"))
        line = agent.CallLogLine(level=agent.CallLogLine.LEVEL_WARNING, message="hot")
        yield agent.DispatchStreamResponse(log=line)
        for index, part in enumerate(request.payload):
            yield agent.DispatchStreamResponse(item=agent.CallItem(index=index, parts=[part]))
        if request.tool == "tools/stumble":
            error = UnknownTool("it fell over", tool=request.tool)
            yield agent.DispatchStreamResponse(error=to_status(error))
        elif request.tool != "tools/break":
            result = agent.DispatchResponse(tool=request.tool, tool_version="1.0.0", cached=True)
            yield agent.DispatchStreamResponse(result=result)

    async def BatchDispatch(self, request: Any, context: Any) -> agent.BatchDispatchResponse:
        outcomes = []
        for action in request.requests:
            if action.tool == "tools/echo":
                response = agent.DispatchResponse(result=action.payload, tool=action.tool)
                outcomes.append(agent.ActionOutcome(response=response))
            else:
                error = UnknownTool(f"tool {action.tool} is unknown", tool=action.tool)
                outcomes.append(agent.ActionOutcome(error=to_status(error)))
        return agent.BatchDispatchResponse(outcomes=outcomes)


class Carbon(carbon_grpc.CarbonServiceServicer):
    """Zone GB has 120 g/kWh, no data comes from zone XX, and every place but the country XX lies in GB."""

    def __init__(self) -> None:
        self.checks: list[carbon.CheckScheduleRequest] = []
        self.places: list[carbon.ResolveZoneRequest] = []

    async def ResolveZone(self, request: Any, context: Any) -> carbon.ResolveZoneResponse:
        self.places.append(request)
        if request.country == "XX":
            await refuse(context, UnknownTool("country 'XX' is not known", near_matches="MX"))
        near = request.HasField("location")
        zone = carbon.ResolvedZone(
            zone="zones/GB",
            display_name="Great Britain",
            quality=carbon.ZONE_QUALITY_NEAREST if near else carbon.ZONE_QUALITY_EXACT,
            source="table",
            table_version="2026-01-01",
            grid_zone="GB",
            near="London" if near else "",
            distance_km=7 if near else None,
        )
        return carbon.ResolveZoneResponse(zones=[zone], place="somewhere")

    async def ListZones(self, request: Any, context: Any) -> carbon.ListZonesResponse:
        zone = carbon.Zone(
            name="zones/GB",
            display_name="Great Britain",
            providers=["uk", "replay"],
            threshold_g_per_kwh=150,
            default=True,
        )
        return carbon.ListZonesResponse(zones=[zone])

    async def GetIntensity(self, request: Any, context: Any) -> carbon.GetIntensityResponse:
        return carbon.GetIntensityResponse(intensity=self._intensity(request.zone))

    async def CheckSchedule(self, request: Any, context: Any) -> carbon.CheckScheduleResponse:
        self.checks.append(request)
        limit = request.max_intensity_g_per_kwh or 150
        if request.zone == "zones/XX":
            return carbon.CheckScheduleResponse(
                decision=carbon.DECISION_RUN_NOW, reason=carbon.REASON_NO_DATA, threshold_g_per_kwh=limit
            )
        clean = limit >= 120
        return carbon.CheckScheduleResponse(
            decision=carbon.DECISION_RUN_NOW if clean else carbon.DECISION_WAIT,
            reason=carbon.REASON_BELOW_THRESHOLD if clean else carbon.REASON_ABOVE_THRESHOLD,
            intensity=self._intensity(request.zone or "zones/GB"),
            threshold_g_per_kwh=limit,
            retry_after=None if clean else Duration(seconds=60),
        )

    def _intensity(self, zone: str) -> carbon.Intensity:
        return carbon.Intensity(
            zone=zone,
            g_per_kwh=120,
            start_time=START,
            signal=carbon.SIGNAL_AVERAGE,
            quality=carbon.QUALITY_ACTUAL,
            source="replay",
            age=Duration(seconds=5),
        )


class Deployment:
    """The servers, what they saw, and how to reach them.

    Attributes:
        machines: Port that asks for a client certificate.
        people: Port that does not.
    """

    def __init__(self, folder: Path) -> None:
        self.mesh = Mesh(folder)
        self.agent, self.carbon = Agent(), Carbon()
        self.uploads, self.publishers = model_desk.Uploads(), model_desk.Publishers()  # type: ignore[abstract]  # what a push needs
        self.models = model_desk.Models(self.publishers, self.uploads)
        self.tool_files = tool_desk.ToolFiles()
        self.nodes, self.training, self.faults = training_desk.Nodes(), training_desk.Training(), Faults()
        self.apps = training_desk.Apps()
        self.machines = self.people = 0

    def profile(self, account: str = "sdk", **changes: Any) -> Profile:
        tls = self.mesh.tls(account)
        fields: dict[str, Any] = {
            "address": f"localhost:{self.machines}",
            "ca": tls.bundle,
            "cert": tls.cert,
            "key": tls.key,
        }
        return Profile(**(fields | changes))

    def client(self, **changes: Any) -> Client:
        return Client(self.profile(**changes), retry=QUICK)

    def calls(self, method: str) -> list[dict[str, str]]:
        """Return the metadata of each call of a method."""
        return [metadata for name, metadata in self.faults.calls if name == method]

    def add_to(self, server: grpc.aio.Server) -> None:
        agent_grpc.add_AgentServiceServicer_to_server(self.agent, server)
        carbon_grpc.add_CarbonServiceServicer_to_server(self.carbon, server)
        model_grpc.add_ModelServiceServicer_to_server(self.models, server)
        publisher_grpc.add_PublisherServiceServicer_to_server(self.publishers, server)
        artifact_grpc.add_ArtifactServiceServicer_to_server(self.uploads, server)
        tool_file_grpc.add_ToolFileServiceServicer_to_server(self.tool_files, server)
        app_grpc.add_AppServiceServicer_to_server(self.apps, server)
        node_grpc.add_NodeServiceServicer_to_server(self.nodes, server)
        fl_grpc.add_TrainingServiceServicer_to_server(self.training, server)

    async def serve(self, started: Callable[[], None], stop: asyncio.Event) -> None:
        server = grpc.aio.server(interceptors=[self.faults])
        self.add_to(server)
        tls = self.mesh.tls("gateway")
        pair = [(tls.key.read_bytes(), tls.cert.read_bytes())]
        mutual = grpc.ssl_server_credentials(pair, tls.bundle.read_bytes(), require_client_auth=True)
        self.machines = server.add_secure_port("127.0.0.1:0", mutual)
        self.people = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
        await server.start()
        started()
        await stop.wait()
        await server.stop(0.2)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AEGIS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with serving(Deployment(tmp_path / "mesh")) as made:
        yield made


D = TypeVar("D", bound=Deployment)


@contextmanager
def serving(made: D) -> Iterator[D]:
    """Run the servers in a thread of their own."""
    loop = asyncio.new_event_loop()
    stop, started = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[made.serve(started.set, stop)])
    thread.start()
    assert started.wait(20)
    yield made
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture
def profile_file(deployment: Deployment, tmp_path: Path) -> Path:
    """A file with the profile of the sdk certificate and, named `people`, one with a token."""
    tls = deployment.mesh.tls("sdk")
    (tmp_path / "token").write_text("a-token\n")
    path = tmp_path / "profiles.toml"
    path.write_text(
        f"""
        default = "sdk"
        [profiles.sdk]
        address = "localhost:{deployment.machines}"
        ca = "{tls.bundle}"
        cert = "{tls.cert}"
        key = "{tls.key}"
        [profiles.people]
        address = "localhost:{deployment.people}"
        ca = "{tls.bundle}"
        token_file = "token"
        """
    )
    return path


class Aegis:
    """Runs the command against the deployment; `out` and `err` are what it printed last."""

    def __init__(self, profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._before = ["--profile-file", str(profile_file)]
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path) -> int:
        code = run([*self._before, *map(str, arguments)])
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def aegis(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> Aegis:
    return Aegis(profile_file, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.yaml").write_text(model_desk.SPEC)
    (made / "model.onnx").write_bytes(model_desk.MODEL)
    return made


@pytest.fixture
def key(deployment: Deployment, tmp_path: Path) -> Path:
    """The file of a key that is enrolled."""
    place = tmp_path / "keys" / "mine.key"
    with deployment.client() as client:
        client.publisher_keys.enroll(place)
    return place
