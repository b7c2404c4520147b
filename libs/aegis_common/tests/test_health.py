"""How a service that goes tells those who send it calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_common.rpc.channel import MeshChannel, mesh_channel
from aegis_common.rpc.health import LEAVE
from aegis_common.rpc.server import Registration, Running, serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh

REQUEST = pb.GetIntensityRequest(zone="zones/a")
STATUS = health_pb2.HealthCheckResponse


class Carbon(pb_grpc.CarbonServiceServicer):
    async def GetIntensity(self, request: Any, context: Any) -> pb.GetIntensityResponse:
        return pb.GetIntensityResponse()


class Leaving:
    """A server that can be told to go, and two callers of it."""

    def __init__(self, mesh: Mesh, server: Running, stack: AsyncExitStack) -> None:
        self._target, self._tls = f"127.0.0.1:{server.port}", mesh.tls("sdk")
        self.balancer, self.caller = self._channel(), self._channel()
        self._stack = stack

    def _channel(self) -> MeshChannel:
        return mesh_channel(self._target, service="carbon", tls=self._tls)

    async def asked(self) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.balancer)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        status: int = answer.status
        return status

    async def call(self) -> None:
        await pb_grpc.CarbonServiceStub(self.caller).GetIntensity(REQUEST)

    def go(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._stack.aclose())

    async def close(self) -> None:
        await asyncio.gather(self.balancer.close(), self.caller.close())


@pytest.fixture
async def leaving(tmp_path: Path) -> AsyncIterator[Leaving]:
    mesh = Mesh(tmp_path)
    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(seconds=20))
    add: list[Registration] = [(pb_grpc.add_CarbonServiceServicer_to_server, Carbon())]  # type: ignore[abstract]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(settings, name="carbon", add=add))
        made = Leaving(mesh, server, stack)
        yield made
        await made.close()


async def test_calls_are_answered_until_the_load_balancer_has_been_told(leaving: Leaving) -> None:
    assert STATUS.SERVING == await leaving.asked()

    going = leaving.go()
    await asyncio.sleep(2 * LEAVE.total_seconds())
    await leaving.call()
    assert not going.done()
    assert STATUS.NOT_SERVING == await leaving.asked()
    await leaving.call()  # one that was on its way
    await asyncio.wait_for(going, 20)
