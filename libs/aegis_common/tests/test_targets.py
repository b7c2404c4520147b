"""Channels to a service that has several addresses."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.server import Registration, serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port


class Carbon(pb_grpc.CarbonServiceServicer):
    async def GetIntensity(self, request: Any, context: Any) -> pb.GetIntensityResponse:
        return pb.GetIntensityResponse()


async def test_calls_go_to_the_replica_that_answers_when_another_is_away(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(0))
    add: list[Registration] = [(pb_grpc.add_CarbonServiceServicer_to_server, Carbon())]  # type: ignore[abstract]
    async with serving(settings, name="carbon", add=add) as server:
        target = f"ipv4:127.0.0.1:{free_port()},127.0.0.1:{server.port}"
        async with mesh_channel(target, service="carbon", tls=mesh.tls("sdk")) as channel:
            answer = await pb_grpc.CarbonServiceStub(channel).GetIntensity(
                pb.GetIntensityRequest(zone="zones/a")
            )

    assert pb.GetIntensityResponse() == answer
