"""Jobs that hold a place in time at the real carbon service, over real mutual TLS, on real Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from services.agent.tests.job_fleet import (
    created,
    ended,
    failure,
    moment,
    reached,
    settings_of,
    starts,
    wanted,
)

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis.carbon.v1 import reservation_service_pb2 as carbon_pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as carbon_grpc
from aegis_agent.main import running
from aegis_carbon.adapters.synthetic import synthetic_week
from aegis_carbon.main import running as carbon_running
from aegis_carbon.settings import Settings as CarbonSettings
from aegis_common.errors import ErrorKind
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.times import duration
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import redis_server

pytestmark = pytest.mark.asyncio(loop_scope="module")
State = carbon_pb.Reservation
A_DAY_S = 9.6
"""How long a day of the grid takes here."""


def grids() -> str:
    """Return the synthetic week with one more zone, which never changes: there work starts at once."""
    told, table = synthetic_week().split("time,", 1)
    first, *rows = table.splitlines()
    lines = [f"time,{first},flat", *(f"{row},100" for row in rows)]
    return told + "# zone.flat: Flat\n" + "\n".join(lines) + "\n"


class Site:
    """A carbon service, and agents on one job store, which come and go."""

    def __init__(self, mesh: Mesh, folder: Path, redis_url: str, carbon_redis: str) -> None:
        self.mesh, self.folder, self.redis_url = mesh, folder, redis_url
        self.port = free_port()
        (folder / "grids.csv").write_text(grids())
        self._carbon = CarbonSettings(
            **{**mesh.service_kwargs("carbon"), "listen": f"127.0.0.1:{self.port}", "drain": timedelta(0)},
            providers=("replay",),
            replay_file=folder / "grids.csv",
            replay_speed=9000,
            redis_url=SecretStr(carbon_redis),
            capacity_pools={"one": 1},
        )

    @asynccontextmanager
    async def carbon(self) -> AsyncIterator[carbon_grpc.ReservationServiceAsyncStub]:
        async with carbon_running(self._carbon), self.mesh.channel(self.port, "carbon", account="sdk") as way:
            yield carbon_grpc.ReservationServiceStub(way)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[pb_grpc.JobServiceAsyncStub]:
        settings = settings_of(
            self.mesh, self.folder, self.redis_url, carbon=f"127.0.0.1:{self.port}", drain=timedelta(0)
        )
        async with running(settings) as server:
            target = f"127.0.0.1:{server.port}"
            async with mesh_channel(target, service="agent", tls=self.mesh.tls("sdk")) as channel:
                yield pb_grpc.JobServiceStub(channel)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    mesh = Mesh(folder)
    with (
        redis_server(folder / "redis", append_only=True) as url,
        redis_server(folder / "carbon-redis", append_only=True) as carbon_url,
    ):
        yield Site(mesh, folder, url, carbon_url)


@asynccontextmanager
async def whole(site: Site) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A carbon service that is there from the beginning, and two agents."""
    async with site.carbon() as carbon, AsyncExitStack() as stack:
        yield carbon, [await stack.enter_async_context(site.agent()) for _ in range(2)]


def policy(max_wait_s: float, *, lasts_s: float = 1, **fields: Any) -> pb.JobCarbonPolicy:
    return pb.JobCarbonPolicy(
        **{"zone": "zones/demo-day", **fields},
        max_wait=duration(timedelta(seconds=max_wait_s)),
        duration=duration(timedelta(seconds=lasts_s)),
    )


async def reservation(stub: Any, name: str, *states: State.State.ValueType) -> carbon_pb.Reservation:
    """Return a reservation as soon as it is in one of the states, and not by an assumption."""
    async with asyncio.timeout(30):
        while True:
            request = carbon_pb.GetReservationRequest(name=name)
            found: carbon_pb.Reservation = (await stub.GetReservation(request)).reservation
            if found.state in states and not found.end_assumed:
                return found
            await asyncio.sleep(0.05)


async def test_a_job_runs_in_the_clean_window_once_and_carbon_knows(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "starts"
    async with whole(site) as (carbon, agents):
        request = wanted(
            "note_once",
            {"file": str(file), "key": "a", "seconds": 0.3},
            carbon_policy=policy(A_DAY_S / 2),
            request_id=str(uuid.uuid4()),
        )
        job = await created(agents[0], request)
        again = await created(agents[1], request)
        told = await agents[1].ExplainJob(pb.ExplainJobRequest(name=job.name))
        end = await ended(agents[1], job.name)
        done = await reservation(carbon, job.reservation.name, State.STATE_FINISHED)
        held = (await carbon.ListReservations(carbon_pb.ListReservationsRequest())).reservations

    assert end.state == pb.Job.STATE_COMPLETED
    assert starts(file) == ["a"]
    assert again.name == job.name
    assert [item.name for item in held if item.labels["job"] in job.name] == [job.reservation.name]
    planned = end.reservation.planned_start_time.ToDatetime()
    assert planned <= end.start_time.ToDatetime()
    assert job.reservation.expected_saving >= 0
    assert any(job.reservation.name in line for line in told.explanation)
    assert (done.start_time, done.end_time) == (end.start_time, end.end_time)
    assert done.labels["job"] == job.name.removeprefix("jobs/")


async def test_what_carbon_refuses_is_told_and_leaves_no_job(site: Site) -> None:
    in_pool = {"not_before": moment(30), "carbon_policy": policy(1, lasts_s=5, capacity_pool="one")}
    async with whole(site) as (_, agents):
        known = (await agents[0].ListJobs(pb.ListJobsRequest())).jobs
        first = await created(agents[0], wanted("add", {"a": 1}, **in_pool))
        refusals = [
            await failure(agents[0].CreateJob(wanted("add", {"a": 1}, **fields)))
            for fields in (
                {"carbon_policy": policy(60, zone="zones/nowhere")},
                {"carbon_policy": policy(60, capacity_pool="two")},
                in_pool,
                {"carbon_policy": policy(0, capacity_pool="one")},
                {"carbon_policy": policy(9, capacity_pool="one", max_intensity_g_per_kwh=9)},
            )
        ]
        jobs = (await agents[0].ListJobs(pb.ListJobsRequest())).jobs
        await agents[1].CancelJob(pb.CancelJobRequest(name=first.name))

    assert refusals == [
        (ErrorKind.NOT_FOUND, "UNKNOWN_ZONE"),
        (ErrorKind.NOT_FOUND, "UNKNOWN_CAPACITY_POOL"),
        (ErrorKind.FAILED_PRECONDITION, "INFEASIBLE_JOB"),
        (ErrorKind.INVALID_ARGUMENT, "INVALID_JOB"),
        (ErrorKind.INVALID_ARGUMENT, "INVALID_JOB"),
    ]
    assert len(jobs) == len(known) + 1


async def _given_back(carbon: Any, agent: Any, request: pb.CreateJobRequest) -> pb.Job:
    job = await created(agent, request)
    await agent.CancelJob(pb.CancelJobRequest(name=job.name))
    await reservation(carbon, job.reservation.name, State.STATE_CANCELLED)
    return job


async def test_a_cancelled_job_gives_its_place_back_and_a_retried_one_asks_for_a_new_one(site: Site) -> None:
    in_pool = {"not_before": moment(55), "carbon_policy": policy(1, lasts_s=5, capacity_pool="one")}
    request = wanted("add", {"a": 1}, **in_pool)
    async with whole(site) as (carbon, agents):
        job, other = [await _given_back(carbon, agent, request) for agent in agents]
        retried = (await agents[0].RetryJob(pb.RetryJobRequest(name=job.name))).job
        new = await reached(agents[0], job.name, lambda found: bool(found.reservation.name))
        await agents[0].CancelJob(pb.CancelJobRequest(name=job.name))

    assert other.reservation.name
    assert not retried.HasField("reservation")
    assert new.reservation.name != job.reservation.name


async def test_a_pool_of_one_runs_one_job_at_a_time(site: Site, tmp_path: Path) -> None:
    def request(key: str) -> pb.CreateJobRequest:
        arguments = {"file": str(tmp_path / "starts"), "key": key, "seconds": 0.5}
        return wanted(
            "note_once", arguments, carbon_policy=policy(40, zone="zones/flat", capacity_pool="one")
        )

    async with whole(site) as (_, agents):
        jobs = [await created(agents[number], request(key)) for number, key in enumerate("ab")]
        ends = [await ended(agents[0], job.name) for job in jobs]

    assert [job.state for job in ends] == [pb.Job.STATE_COMPLETED] * 2
    first, second = sorted(ends, key=lambda job: job.start_time.ToNanoseconds())
    assert first.end_time.ToNanoseconds() <= second.start_time.ToNanoseconds()
    assert second.start_time.ToNanoseconds() < second.latest_start.ToNanoseconds()  # it was told to


async def test_a_job_is_in_time_when_carbon_dies_and_carbon_hears_of_it_later(
    site: Site,
) -> None:
    async with AsyncExitStack() as stack:
        async with site.carbon():
            stub = await stack.enter_async_context(site.agent())
            request = wanted("add", {"a": 1}, not_before=moment(2), carbon_policy=policy(1))
            job = await created(stub, request)
        end = await ended(stub, job.name)
        async with site.carbon() as carbon:
            done = await reservation(carbon, job.reservation.name, State.STATE_FINISHED)

    assert (job.wait_reason, end.state) == (pb.Job.WAIT_REASON_NOT_BEFORE, pb.Job.STATE_COMPLETED)
    assert end.start_time.ToDatetime() >= job.latest_start.ToDatetime() > job.not_before.ToDatetime()
    assert done.HasField("start_time")


async def test_a_job_made_without_carbon_gets_its_place_later_from_another_agent(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_agent.adapters.jobs.reservations._SOON", timedelta(seconds=0.5))
    file = tmp_path / "starts"
    arguments = {"file": str(file), "key": "a"}
    async with site.agent() as stub:
        flat = policy(20, zone="zones/flat")
        request = wanted("note_once", arguments, not_before=moment(3), carbon_policy=flat)
        job = await created(stub, request)
        told = await stub.ExplainJob(pb.ExplainJobRequest(name=job.name))
    async with site.carbon(), site.agent() as stub:
        held = await reached(stub, job.name, lambda found: found.HasField("reservation"))
    async with site.carbon() as carbon, site.agent() as stub:
        end = await ended(stub, job.name)
        done = await reservation(carbon, end.reservation.name, State.STATE_FINISHED)

    assert (told.carbon.reason, job.HasField("reservation")) == ("CARBON_UNAVAILABLE", False)
    assert held.reservation.name == end.reservation.name == done.name
    assert (end.state, starts(file)) == (pb.Job.STATE_COMPLETED, ["a"])
