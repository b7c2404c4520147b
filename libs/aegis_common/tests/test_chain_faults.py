"""What calls see when certificates change under them, when nothing can be audited, and under slow probes."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis.fl.v1 import training_service_pb2 as fl_pb
from aegis.fl.v1 import training_service_pb2_grpc as fl_grpc
from aegis_common.audit.log import AuditLog, AuditUnavailable
from aegis_common.audit.record import AuditRecord
from aegis_common.auth.principal import ANONYMOUS
from aegis_common.rpc.access import method_table
from aegis_common.rpc.chain import Chain, ChainInterceptor
from aegis_common.rpc.channel import MeshChannel, mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.layers import AuditLayer, ErrorLayer
from aegis_common.rpc.ops import ops_server
from aegis_common.rpc.server import Registration, Running, serving
from aegis_common.settings import ServiceSettings
from aegis_common.signing import Signer
from aegis_common.testing.audit import lines
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until
from aegis_common.tls import IdentityFiles, server_credentials


class Carbon(pb_grpc.CarbonServiceServicer):
    def __init__(self) -> None:
        self.calls = 0

    async def GetIntensity(self, request: Any, context: Any) -> pb.GetIntensityResponse:
        self.calls += 1
        return pb.GetIntensityResponse()


class Training(fl_grpc.TrainingServiceServicer):
    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def WatchTrainingRun(
        self, request: Any, context: Any
    ) -> AsyncIterator[fl_pb.WatchTrainingRunResponse]:
        yield fl_pb.WatchTrainingRunResponse(resume_token="1")
        await self.go_on.wait()
        yield fl_pb.WatchTrainingRunResponse(resume_token="2")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def training() -> Training:
    return Training()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED


@pytest.fixture
async def server(mesh: Mesh, training: Training) -> AsyncIterator[Running]:
    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(0))
    add: list[Registration] = [
        (pb_grpc.add_CarbonServiceServicer_to_server, Carbon()),  # type: ignore[abstract]  # as above
        (fl_grpc.add_TrainingServiceServicer_to_server, training),
    ]
    async with serving(settings, name="carbon", add=add) as running:
        yield running


def _channel(mesh: Mesh, port: int) -> MeshChannel:
    return mesh_channel(f"127.0.0.1:{port}", service="carbon", tls=mesh.tls("sdk"))


async def _ask(channel: grpc.aio.Channel, **options: Any) -> Any:
    stub = pb_grpc.CarbonServiceStub(channel)
    return await stub.GetIntensity(pb.GetIntensityRequest(zone="zones/a"), **options)


def _retired(channel: MeshChannel) -> int:
    return len(channel._retired)  # nothing else tells when the new certificate is in use


async def test_a_running_stream_outlives_a_new_certificate(
    mesh: Mesh, server: Running, training: Training
) -> None:
    async with _channel(mesh, server.port) as channel:
        request = fl_pb.WatchTrainingRunRequest(name="trainingRuns/a")
        watch = fl_grpc.TrainingServiceStub(channel).WatchTrainingRun(request)
        first = await watch.read()
        mesh.rotate("sdk")
        await until(lambda: _retired(channel) == 1)
        await _ask(channel)
        training.go_on.set()
        rest = [await watch.read(), await watch.read()]
        await until(lambda: _retired(channel) == 0)

    assert fl_pb.WatchTrainingRunResponse(resume_token="1") == first
    assert [fl_pb.WatchTrainingRunResponse(resume_token="2"), grpc.aio.EOF] == rest


async def test_a_channel_closes_the_ones_that_it_has_replaced(mesh: Mesh, server: Running) -> None:
    channel = _channel(mesh, server.port)
    request = fl_pb.WatchTrainingRunRequest(name="trainingRuns/a")
    watch = fl_grpc.TrainingServiceStub(channel).WatchTrainingRun(request)
    await watch.read()
    mesh.rotate("sdk")
    await until(lambda: _retired(channel) == 1)
    async with asyncio.timeout(10):
        await channel.close()

    assert (0, True) == (_retired(channel), watch.done())


async def test_a_token_of_the_largest_size_that_is_verified_gets_through(mesh: Mesh, server: Running) -> None:
    token = mesh.token(pad="x" * 11_000)
    async with _channel(mesh, server.port) as channel:
        await _ask(channel, metadata=(("authorization", f"Bearer {token}"),))

    assert len(token) > 14_000


async def test_without_an_audit_log_a_call_is_refused_before_it_has_an_effect(
    mesh: Mesh, tmp_path: Path
) -> None:
    log = AuditLog(tmp_path / "log", service="carbon", instance="a", key=Signer.load(mesh.audit_key))
    await log.start()
    await log.close()
    carbon = Carbon()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    chain = ChainInterceptor(Chain(method_table(), [AuditLayer(log), ErrorLayer()]), lambda _: None)
    server = grpc.aio.server(interceptors=[chain])
    pb_grpc.add_CarbonServiceServicer_to_server(carbon, server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(IdentityFiles.of(mesh.tls("carbon"))))
    await server.start()
    try:
        async with _channel(mesh, port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _ask(channel)
    finally:
        await server.stop(0)

    details = details_of(caught.value)
    assert (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE") == (caught.value.code(), details.reason)
    assert 0 == carbon.calls


async def test_an_audit_log_whose_file_was_removed_takes_no_calls(mesh: Mesh, tmp_path: Path) -> None:
    record = AuditRecord(method="/a/B", principal=ANONYMOUS, code="OK")
    log = AuditLog(
        tmp_path / "log",
        service="carbon",
        instance="a",
        key=Signer.load(mesh.audit_key),
        queue_size=1,
        append_timeout=timedelta(seconds=0.2),
    )
    await log.start()
    log.check()
    shutil.rmtree(tmp_path / "log")
    await log.append(record)
    await until(lambda: log.failures > 0)
    await log.append(record)

    with pytest.raises(AuditUnavailable):
        log.check()
    with pytest.raises(AuditUnavailable):
        await log.close()


@pytest.mark.parametrize("account", ["sdk", "fl-node"])
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff"])
async def test_bytes_that_are_no_message_are_refused_and_audited_as_any_call(
    mesh: Mesh, server: Running, account: str, data: bytes
) -> None:
    async with mesh_channel(f"127.0.0.1:{server.port}", service="carbon", tls=mesh.tls(account)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/aegis.carbon.v1.CarbonService/GetIntensity")(data, timeout=10)

    audit = mesh.service_kwargs("carbon")["audit_dir"]
    records: list[dict[str, Any]] = []

    def audited() -> bool:
        records[:] = [record for file in Path(audit).glob("*.jsonl") for record in lines(file)]
        return any(record["kind"] == "call" for record in records)

    await until(audited)
    [record] = [record for record in records if record["kind"] == "call"]
    known = account == "sdk"  # others are not told what is wrong with what they may not ask
    expected = ("INVALID_ARGUMENT", "UNREADABLE_REQUEST") if known else ("PERMISSION_DENIED", "ROLE_MISSING")

    assert expected == (caught.value.code().name, details_of(caught.value).reason)
    assert expected == (record["code"], record["reason"])


async def test_a_connection_that_says_nothing_does_not_hold_up_the_probes() -> None:
    with (
        ops_server("127.0.0.1:0", metrics=lambda: b"", ready=lambda: True) as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=3) as http:
            ready = await http.get("/ready")

    assert 200 == ready.status_code
