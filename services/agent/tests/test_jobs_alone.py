"""JobService of one agent by itself: without a store, with one slot for all classes, and what it reports."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from services.agent.tests.job_fleet import (
    HANG_GUARD_S,
    created,
    ended,
    failure,
    fleet_in,
    moment,
    reached,
    settings_of,
    starts,
    wanted,
)

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis_agent.main import running
from aegis_common.errors import ErrorKind
from aegis_common.rpc.channel import mesh_channel
from aegis_common.testing.pki import Mesh
from aegis_common.testing.redis import redis_server
from aegis_common.testing.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_agent_without_a_store_says_how_to_get_one(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    async with running(settings_of(mesh, tmp_path, "")) as server:
        channel = mesh_channel(f"127.0.0.1:{server.port}", service="agent", tls=mesh.tls("sdk"))
        async with channel:
            stub = pb_grpc.JobServiceStub(channel)
            call = stub.ListJobs(pb.ListJobsRequest())
            assert await failure(call) == (ErrorKind.FAILED_PRECONDITION, "JOBS_NOT_CONFIGURED")


async def test_higher_classes_go_first_and_lower_ones_get_their_share(tmp_path: Path) -> None:
    async with fleet_in(tmp_path, [{"job_slots": 1}]) as fleet:
        stub, file = fleet.jobs("admin"), tmp_path / "order"
        classes = (pb.Job.PRIORITY_LOW, pb.Job.PRIORITY_NORMAL, pb.Job.PRIORITY_HIGH)
        hold = {"file": str(tmp_path / "hold"), "key": "hold", "seconds": 1.5}
        first = await created(stub, wanted("note_again", hold))
        await reached(stub, first.name, lambda now: now.phase == pb.Job.PHASE_RUNNING)
        for priority in classes:
            for number in range(12):
                key = f"{pb.Job.Priority.Name(priority)[9]}{number}"
                await created(stub, wanted("note_again", {"file": str(file), "key": key}, priority=priority))
        waiting = await stub.ListJobs(pb.ListJobsRequest(filter="phase = QUEUED"))
        assert len(waiting.jobs) == 36
        last = waiting.jobs[0].name
        await asyncio.gather(*(ended(stub, job.name) for job in waiting.jobs))

    order = starts(file)
    assert last
    for name in "LNH":
        own = [key for key in order if key[0] == name]
        assert own == [f"{name}{number}" for number in range(12)]
    # The first turn went to the job that held the slot.
    assert "".join(key[0] for key in order[:10]) == "HHHNHHHHLH"


async def test_an_agent_reports_what_waits_and_what_runs(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    with redis_server(tmp_path / "redis", append_only=True) as url:
        async with running(settings_of(mesh, tmp_path, url, job_slots=0)) as server:
            channel = mesh_channel(f"127.0.0.1:{server.port}", service="agent", tls=mesh.tls("sdk"))
            async with channel:
                stub = pb_grpc.JobServiceStub(channel)
                await created(stub, wanted("add", {"a": 1}))
                await created(stub, wanted("add", {"a": 1}, not_before=moment(60)))

            def reported() -> list[str]:
                lines = server.telemetry.metrics_text().decode().splitlines()
                return [line for line in lines if line.startswith("aegis_jobs")]

            def counted() -> bool:
                return any('priority="normal"' in line and line.endswith(" 1.0") for line in reported())

            await until(counted, timeout_s=HANG_GUARD_S)
            values = {line.replace("{", " ").split()[0]: line.split()[-1] for line in reported()}
    assert values["aegis_jobs_deferred"] == "1.0"
    assert values["aegis_jobs_running"] == "0.0"
    assert values["aegis_jobs_store_available"] == "1.0"
