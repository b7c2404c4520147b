"""The whole chain over real mutual TLS: all four kinds of method, and what a caller sees of each refusal."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis.fl.v1 import training_service_pb2 as fl_pb
from aegis.fl.v1 import training_service_pb2_grpc as fl_grpc
from aegis_common.auth.principal import Principal
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.rpc.call import current_call
from aegis_common.rpc.channel import MeshChannel, mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.outgoing import acting_for
from aegis_common.rpc.server import Registration, Running, serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.audit import lines
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Refused(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ZONE"


class Carbon(pb_grpc.CarbonServiceServicer):
    """Answers with what it knows of the call, or fails in the way that the zone's name asks for."""

    def __init__(self) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def GetIntensity(self, request: pb.GetIntensityRequest, context: Any) -> pb.GetIntensityResponse:
        call = current_call()
        match request.zone:
            case "zones/refused":
                raise Refused("no such zone", zone=request.zone)
            case "zones/crash":
                raise RuntimeError("secret detail")
            case "zones/slow":
                self.started.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    self.cancelled.set()
        told = {
            "subject": call.principal.subject,
            "tenant": call.principal.tenant,
            "trace": call.trace_id,
            "left": call.time_remaining(),
            "token": call.principal.token is not None,
        }
        return pb.GetIntensityResponse(intensity=pb.Intensity(source=json.dumps(told)))

    async def CheckSchedule(self, request: pb.CheckScheduleRequest, context: Any) -> pb.CheckScheduleResponse:
        principal = current_call().principal
        source = f"{principal.subject}@{principal.tenant}"
        return pb.CheckScheduleResponse(intensity=pb.Intensity(source=source))


class Training(fl_grpc.TrainingServiceServicer):
    async def WatchTrainingRun(
        self, request: fl_pb.WatchTrainingRunRequest, context: Any
    ) -> AsyncIterator[fl_pb.WatchTrainingRunResponse]:
        yield fl_pb.WatchTrainingRunResponse(resume_token="1")
        if request.resume_token == "fail":
            raise Refused("gone")
        yield fl_pb.WatchTrainingRunResponse(resume_token="2")


@pytest.fixture
def carbon() -> Carbon:
    return Carbon()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED


@pytest.fixture
async def server(mesh: Mesh, carbon: Carbon) -> AsyncIterator[Running]:
    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(0))
    add: list[Registration] = [
        (pb_grpc.add_CarbonServiceServicer_to_server, carbon),
        (fl_grpc.add_TrainingServiceServicer_to_server, Training()),  # type: ignore[abstract]  # as above
    ]
    async with serving(settings, name="carbon", add=add) as running:
        yield running


def _channel(mesh: Mesh, server: Running, account: str) -> MeshChannel:
    return mesh_channel(f"127.0.0.1:{server.port}", service="carbon", tls=mesh.tls(account))


@pytest.fixture
async def sdk(mesh: Mesh, server: Running) -> AsyncIterator[MeshChannel]:
    async with _channel(mesh, server, "sdk") as channel:
        yield channel


def _health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def _told(channel: MeshChannel, **options: Any) -> dict[str, Any]:
    stub = pb_grpc.CarbonServiceStub(channel)
    answer = await stub.GetIntensity(pb.GetIntensityRequest(zone="zones/a"), **options)
    told: dict[str, Any] = json.loads(answer.intensity.source)
    return told


async def test_a_certificate_alone_names_the_caller(sdk: MeshChannel) -> None:
    told = await _told(sdk)

    assert ("sdk", "default", False) == (told["subject"], told["tenant"], told["token"])


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_method_that_there_is_not_is_audited_like_any_other(
    sdk: MeshChannel, mesh: Mesh, server: Running, kind: str
) -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"x"

    path = "/aegis.carbon.v1.CarbonService/Guess" + "x" * 500
    call = getattr(sdk, kind)(path)(one() if kind.startswith("stream") else b"x", timeout=30)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if kind.endswith("unary") else call.read())

    assert (grpc.StatusCode.UNIMPLEMENTED, "Method not found!") == (
        caught.value.code(), caught.value.details(),
    )  # fmt: skip
    await until(lambda: bool(records(mesh)), timeout_s=30)
    [record] = records(mesh)
    assert (path[:128], "UNIMPLEMENTED", "sdk") == (
        record["method"], record["code"], record["principal"]["subject"],
    )  # fmt: skip


def records(mesh: Mesh) -> list[dict[str, Any]]:
    files = (mesh.folder / "audit" / "carbon").glob("*.jsonl")
    return [line for file in files for line in lines(file) if line["kind"] == "call"]


async def test_a_token_names_the_user_and_its_tenant(sdk: MeshChannel, mesh: Mesh) -> None:
    token = mesh.token(sub="alice", roles=("viewer",), tenant="acme")
    told = await _told(sdk, metadata=(("authorization", f"Bearer {token}"),))

    assert ("alice", "acme", True) == (told["subject"], told["tenant"], told["token"])


async def test_the_callers_trace_goes_on(sdk: MeshChannel) -> None:
    told = await _told(sdk, metadata=(("traceparent", TRACE),))

    assert TRACE.split("-")[1] == told["trace"]


async def test_a_call_without_a_deadline_gets_the_methods_own_and_no_call_gets_more_than_the_cap(
    sdk: MeshChannel,
) -> None:
    assert (await _told(sdk))["left"] <= 30
    assert (await _told(sdk, timeout=500))["left"] <= 60


@pytest.mark.parametrize(
    ("zone", "code", "reason"),
    [
        ("zones/refused", ErrorKind.NOT_FOUND, "UNKNOWN_ZONE"),
        ("zones/crash", ErrorKind.INTERNAL, "INTERNAL"),
        ("not a zone", ErrorKind.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
async def test_each_error_has_its_code_and_reason(
    sdk: MeshChannel, zone: str, code: ErrorKind, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.CarbonServiceStub(sdk).GetIntensity(pb.GetIntensityRequest(zone=zone))
    details = details_of(caught.value)

    assert (code, reason) == (details.kind, details.reason)
    assert "secret" not in details.message


async def test_an_invalid_field_is_named(sdk: MeshChannel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.CarbonServiceStub(sdk).GetIntensity(pb.GetIntensityRequest(zone="x"))

    assert ["zone"] == list(details_of(caught.value).violations)


async def test_the_deadline_stops_the_handler(sdk: MeshChannel, carbon: Carbon) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.CarbonServiceStub(sdk).GetIntensity(
            pb.GetIntensityRequest(zone="zones/slow"), timeout=0.3
        )

    assert grpc.StatusCode.DEADLINE_EXCEEDED == caught.value.code()
    await asyncio.wait_for(carbon.cancelled.wait(), 10)


async def test_a_stream_is_guarded_and_its_errors_are_mapped(sdk: MeshChannel) -> None:
    stub = fl_grpc.TrainingServiceStub(sdk)
    tokens = [e.resume_token async for e in stub.WatchTrainingRun(_watch(""))]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [e async for e in stub.WatchTrainingRun(_watch("fail"))]

    assert ["1", "2"] == tokens
    assert "UNKNOWN_ZONE" == details_of(caught.value).reason


def _watch(token: str) -> fl_pb.WatchTrainingRunRequest:
    return fl_pb.WatchTrainingRunRequest(name="trainingRuns/a", resume_token=token)


async def test_a_caller_without_a_role_is_refused_on_streams_too(mesh: Mesh, server: Running) -> None:
    async with _channel(mesh, server, "agent") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [e async for e in fl_grpc.TrainingServiceStub(channel).WatchTrainingRun(_watch(""))]

    assert "ROLE_MISSING" == details_of(caught.value).reason


async def test_deferred_work_is_done_for_its_creator_where_the_method_takes_that(
    mesh: Mesh, server: Running
) -> None:
    alice = Principal("", "alice", "acme", frozenset({"trainer"}))
    async with _channel(mesh, server, "fl-coordinator") as channel:
        stub = pb_grpc.CarbonServiceStub(channel)
        with acting_for(alice, traceparent=TRACE):
            checked = await stub.CheckSchedule(pb.CheckScheduleRequest())
            own = await stub.GetIntensity(pb.GetIntensityRequest(zone="zones/a"))

    told = json.loads(own.intensity.source)
    assert "alice@acme" == checked.intensity.source
    assert ("fl-coordinator", TRACE.split("-")[1]) == (told["subject"], told["trace"])


async def test_acting_for_somebody_is_refused_to_others(mesh: Mesh, sdk: MeshChannel) -> None:
    record = Principal("", "alice", "acme", frozenset({"admin"})).to_record()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _told(sdk, metadata=(("aegis-on-behalf-of", record),))

    assert grpc.StatusCode.PERMISSION_DENIED == caught.value.code()


async def test_no_certificate_no_connection(mesh: Mesh, server: Running) -> None:
    bundle = mesh.tls("sdk").bundle.read_bytes()
    options = [("grpc.ssl_target_name_override", "carbon.aegis.aegis.internal")]
    credentials = grpc.ssl_channel_credentials(bundle)
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _health(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert grpc.StatusCode.UNAVAILABLE == caught.value.code()


async def test_a_valid_certificate_of_another_service_is_refused_by_the_caller(
    mesh: Mesh, server: Running
) -> None:
    async with mesh_channel(f"127.0.0.1:{server.port}", service="agent", tls=mesh.tls("sdk")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _told(channel, timeout=3)

    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_health_metrics_and_readiness(sdk: MeshChannel, server: Running) -> None:
    await _told(sdk)
    stub = _health(sdk)
    service = "aegis.carbon.v1.CarbonService"
    check = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ops_port}") as http:
        metrics = (await http.get("/metrics")).text
        ready = (await http.get("/ready")).status_code
        await server.set_ready(False)
        unready = (await http.get("/ready")).status_code

    assert health_pb2.HealthCheckResponse.SERVING == check.status
    assert (200, 503) == (ready, unready)
    assert 'rpc_method="aegis.carbon.v1.CarbonService/GetIntensity"' in metrics
    assert "aegis_tls_not_after" in metrics


async def test_refused_calls_are_audited_and_passed_health_checks_are_not(
    mesh: Mesh, server: Running, sdk: MeshChannel, tmp_path: Path
) -> None:
    await _health(sdk).Check(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.aio.AioRpcError):
        await _told(sdk, metadata=(("authorization", "Bearer nonsense"),))

    folder = mesh.service_kwargs("carbon")["audit_dir"]
    deadline = time.monotonic() + 10
    records: list[dict[str, Any]] = []
    while not records and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        lines = [line for path in Path(folder).glob("*.jsonl") for line in path.read_text().splitlines()]
        records = [record for record in map(json.loads, lines) if "method" in record]

    assert [("/aegis.carbon.v1.CarbonService/GetIntensity", "UNAUTHENTICATED")] == [
        (record["method"], record["code"]) for record in records
    ]


async def test_a_rotated_certificate_is_taken_up_by_new_connections(
    mesh: Mesh, server: Running, sdk: MeshChannel
) -> None:
    await _told(sdk)
    mesh.rotate("carbon")
    mesh.rotate("sdk")
    async with _channel(mesh, server, "sdk") as fresh:
        told = await _told(fresh)

    assert "sdk" == told["subject"]
    assert "sdk" == (await _told(sdk))["subject"]


async def test_a_call_that_the_drain_cancels_is_audited_before_the_server_is_gone(
    mesh: Mesh, carbon: Carbon
) -> None:
    kwargs = mesh.service_kwargs("carbon")
    settings = ServiceSettings(**kwargs, drain=timedelta(0))
    add: list[Registration] = [(pb_grpc.add_CarbonServiceServicer_to_server, carbon)]
    async with (
        serving(settings, name="carbon", add=add) as running,
        _channel(mesh, running, "sdk") as channel,
    ):
        slow = pb_grpc.CarbonServiceStub(channel).GetIntensity(pb.GetIntensityRequest(zone="zones/slow"))
        await asyncio.wait_for(carbon.started.wait(), 10)
        await _told(channel)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await slow
    lines = [
        line for path in Path(kwargs["audit_dir"]).glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    codes = [record["code"] for record in map(json.loads, lines) if "method" in record]

    assert ["CANCELLED", "OK"] == sorted(codes)


async def test_a_running_call_ends_well_within_the_drain(mesh: Mesh) -> None:
    started = asyncio.Event()

    class Slow(pb_grpc.CarbonServiceServicer):
        async def GetIntensity(self, request: Any, context: Any) -> pb.GetIntensityResponse:
            started.set()
            await asyncio.sleep(1)
            return pb.GetIntensityResponse()

    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(seconds=20))
    add: list[Registration] = [(pb_grpc.add_CarbonServiceServicer_to_server, Slow())]  # type: ignore[abstract]
    channel: MeshChannel | None = None
    async with serving(settings, name="carbon", add=add) as running:
        channel = _channel(mesh, running, "sdk")
        call = pb_grpc.CarbonServiceStub(channel).GetIntensity(pb.GetIntensityRequest(zone="zones/a"))
        await asyncio.wait_for(started.wait(), 10)

    assert pb.GetIntensityResponse() == await call
    await channel.close()
