"""Jobs that wait for a clean grid: the agent asks for their creator, and starts by itself if need be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from services.agent.tests.job_fleet import created, ended, failure, settings_of, wanted

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis_agent.main import running
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.rpc.call import Call, Context, current_call
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import redis_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


class UnknownZone(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ZONE"


class Grid(carbon_grpc.CarbonServiceServicer):
    """A carbon service whose zones `clean` and `dirty` are so, and which knows who asks."""

    def __init__(self) -> None:
        self.calls: list[tuple[carbon_pb.CheckScheduleRequest, Call]] = []

    async def ListZones(
        self, request: carbon_pb.ListZonesRequest, context: Context
    ) -> carbon_pb.ListZonesResponse:
        return carbon_pb.ListZonesResponse()

    async def ResolveZone(
        self, request: carbon_pb.ResolveZoneRequest, context: Context
    ) -> carbon_pb.ResolveZoneResponse:
        return carbon_pb.ResolveZoneResponse()

    async def GetIntensity(
        self, request: carbon_pb.GetIntensityRequest, context: Context
    ) -> carbon_pb.GetIntensityResponse:
        return carbon_pb.GetIntensityResponse()

    async def CheckSchedule(
        self, request: carbon_pb.CheckScheduleRequest, context: Context
    ) -> carbon_pb.CheckScheduleResponse:
        self.calls.append((request, current_call()))
        if request.zone not in ("zones/clean", "zones/dirty"):
            raise UnknownZone(f"zone {request.zone} does not exist", zone=request.zone)
        clean = request.zone == "zones/clean"
        answer = carbon_pb.CheckScheduleResponse(
            decision=carbon_pb.DECISION_RUN_NOW if clean else carbon_pb.DECISION_WAIT,
            reason=carbon_pb.REASON_BELOW_THRESHOLD if clean else carbon_pb.REASON_ABOVE_THRESHOLD,
            intensity=carbon_pb.Intensity(zone=request.zone, g_per_kwh=90 if clean else 400, source="replay"),
            threshold_g_per_kwh=150,
        )
        answer.retry_after.FromMilliseconds(0 if clean else 300)
        return answer


class Setting:
    def __init__(self, stub: Any, grid: Grid, carbon: ServiceSettings) -> None:
        self.stub = stub
        self.grid = grid
        self.carbon = carbon

    def serving(self) -> Any:
        return serving(
            self.carbon,
            name="carbon",
            add=[(carbon_grpc.add_CarbonServiceServicer_to_server, self.grid)],
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setting]:
    folder: Path = tmp_path_factory.mktemp("carbon")
    mesh, address = Mesh(folder), f"127.0.0.1:{free_port()}"

    class CarbonSettings(ServiceSettings):
        pass

    carbon = CarbonSettings(**mesh.service_kwargs("carbon"), listen=address, drain=timedelta(0))
    with redis_server(folder / "redis", append_only=True) as url:
        settings = settings_of(mesh, folder, url, carbon=address)
        async with running(settings) as server:
            target = f"127.0.0.1:{server.port}"
            async with mesh_channel(target, service="agent", tls=mesh.tls("sdk")) as channel:
                yield Setting(pb_grpc.JobServiceStub(channel), Grid(), carbon)


def policy(zone: str, max_wait_s: float, *, limit: float | None = 200) -> pb.JobCarbonPolicy:
    made = pb.JobCarbonPolicy(zone=f"zones/{zone}", max_intensity_g_per_kwh=limit)
    made.max_wait.FromTimedelta(timedelta(seconds=max_wait_s))
    return made


async def connected(setting: Setting) -> None:
    """Return when the agent reaches the service again, after it was away."""
    probe = wanted("add", {"a": 1}, carbon_policy=policy("clean", 1))
    async with asyncio.timeout(30):
        while (await created(setting.stub, probe)).phase != pb.Job.PHASE_QUEUED:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_a_clean_grid_lets_a_job_start_at_once(setting: Setting) -> None:
    async with setting.serving():
        await connected(setting)
        job = await created(setting.stub, wanted("add", {"a": 1}, carbon_policy=policy("clean", 60)))
        end = await ended(setting.stub, job.name)
        told = await setting.stub.ExplainJob(pb.ExplainJobRequest(name=job.name))

    request, call = setting.grid.calls[-1]
    assert job.phase == pb.Job.PHASE_QUEUED
    assert end.state == pb.Job.STATE_COMPLETED
    assert (told.carbon.run_now, told.carbon.reason, told.carbon.intensity_g_per_kwh) == (
        True,
        "BELOW_THRESHOLD",
        90,
    )
    assert request.max_intensity_g_per_kwh == 200
    assert (call.principal.subject, call.principal.on_behalf_of) == ("sdk", True)
    assert call.peer_spiffe_id.endswith("/sa/agent")


async def test_a_dirty_grid_makes_a_job_wait_and_it_is_asked_again(setting: Setting) -> None:
    async with setting.serving():
        await connected(setting)
        job = await created(setting.stub, wanted("add", {"a": 1}, carbon_policy=policy("dirty", 3)))
        before = len(setting.grid.calls)
        end = await ended(setting.stub, job.name)

    assert (job.phase, job.wait_reason) == (pb.Job.PHASE_DEFERRED, pb.Job.WAIT_REASON_CARBON)
    assert job.latest_start.ToDatetime() - job.create_time.ToDatetime() == timedelta(seconds=3)
    assert end.start_time.ToDatetime() >= job.latest_start.ToDatetime()
    assert len(setting.grid.calls) > before
    assert setting.grid.calls[-1][1].principal.subject == "sdk"


async def test_without_a_carbon_service_a_job_starts_at_its_latest_start(setting: Setting) -> None:
    job = await created(setting.stub, wanted("add", {"a": 1}, carbon_policy=policy("clean", 2)))
    told = await setting.stub.ExplainJob(pb.ExplainJobRequest(name=job.name))
    end = await ended(setting.stub, job.name)

    assert job.phase == pb.Job.PHASE_DEFERRED
    assert (told.carbon.run_now, told.carbon.reason) == (False, "CARBON_UNAVAILABLE")
    assert end.state == pb.Job.STATE_COMPLETED
    assert end.start_time.ToDatetime() >= job.latest_start.ToDatetime()


async def test_a_zone_that_does_not_exist_is_told_at_once(setting: Setting) -> None:
    request = wanted("add", {"a": 1}, carbon_policy=policy("nowhere", 60))
    async with setting.serving():
        await connected(setting)

        assert await failure(setting.stub.CreateJob(request)) == (ErrorKind.NOT_FOUND, "UNKNOWN_ZONE")


async def test_where_carbon_has_no_reservations_the_threshold_of_the_zone_counts(setting: Setting) -> None:
    async with setting.serving():
        await connected(setting)
        clean, dirty = [
            await created(setting.stub, wanted("add", {"a": 1}, carbon_policy=policy(zone, 2, limit=None)))
            for zone in ("clean", "dirty")
        ]
        end = await ended(setting.stub, dirty.name)
        refused = await failure(
            setting.stub.CreateJob(wanted("add", {"a": 1}, carbon_policy=policy("nowhere", 2, limit=None)))
        )

    assert (clean.phase, dirty.phase) == (pb.Job.PHASE_QUEUED, pb.Job.PHASE_DEFERRED)
    assert not setting.grid.calls[-1][0].HasField("max_intensity_g_per_kwh")
    assert end.start_time.ToDatetime() >= dirty.latest_start.ToDatetime()
    assert refused == (ErrorKind.NOT_FOUND, "UNKNOWN_ZONE")
