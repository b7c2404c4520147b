"""Agents on one job store, and the calls that tests of JobService make of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.agent.v1 import artifact_service_pb2 as artifact_pb
from aegis.agent.v1 import artifact_service_pb2_grpc as artifact_grpc
from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_agent.main import running
from aegis_agent.settings import AgentSettings
from aegis_common.clock import utc_now
from aegis_common.errors import ErrorKind
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.testing.pki import Mesh
from aegis_common.testing.redis import redis_server

JOB_TOOLS = (
    *("note_again", "note_once", "crash_until", "count_on", "tell"),
    *("half_text", "one_at_a_time"),
)
TOOLS = (
    *(f"aegis_agent.testing.job_tools:{name}" for name in JOB_TOOLS),
    *(f"aegis_agent.testing.tools:{name}" for name in ("add", "fail", "join", "make_bytes", "spin")),
)
LEASE = timedelta(seconds=2)
HANG_GUARD_S = 60.0


class Fleet:
    """Two agents on one job store, and stubs by account."""

    def __init__(self, mesh: Mesh, ports: list[int], folder: Path, redis_url: str) -> None:
        self.mesh = mesh
        self.ports = ports
        self.folder = folder
        self.redis_url = redis_url
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, account: str = "sdk", *, agent: int = 0) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.ports[agent]}"
        channel = mesh_channel(target, service="agent", tls=self.mesh.tls(account))
        self._channels.append(channel)
        return channel

    def jobs(self, account: str = "sdk", *, agent: int = 0) -> pb_grpc.JobServiceAsyncStub:
        return pb_grpc.JobServiceStub(self.channel(account, agent=agent))

    async def artifact(self, name: str, *, account: str = "sdk") -> artifact_pb.Artifact:
        target = f"127.0.0.1:{self.ports[0]}"
        async with mesh_channel(target, service="agent", tls=self.mesh.tls(account)) as channel:
            stub = artifact_grpc.ArtifactServiceStub(channel)
            found: artifact_pb.Artifact = (
                await stub.GetArtifact(artifact_pb.GetArtifactRequest(name=name))
            ).artifact
            return found

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


def settings_of(mesh: Mesh, folder: Path, url: str, **changes: Any) -> AgentSettings:
    trusted = folder / "trusted.pem"
    if not trusted.exists():
        trusted.write_bytes(public_key_pem(new_ed25519(folder / "signing.key")))
    values: dict[str, Any] = {
        **mesh.service_kwargs("agent"),
        "model_store_url": f"file://{folder / 'store'}",
        "model_trusted_keys": (trusted,),
        "tools": TOOLS,
        "plugins": False,
        "warm_up": False,
        "redis_url": url,
        "job_store_check": "warn",
        "job_lease": LEASE,
        "artifact_retention": timedelta(hours=1),
        "drain": timedelta(seconds=1),
    }
    return AgentSettings(**{**values, **changes})


@asynccontextmanager
async def fleet_in(folder: Path, agents: list[dict[str, Any]]) -> AsyncIterator[Fleet]:
    mesh = Mesh(folder)
    mesh.write_identities(
        {mesh.spiffe_id("blue"): {"tenant": "blue", "roles": ["operator"], "via_gateway": True}}
    )
    async with AsyncExitStack() as stack:
        url = stack.enter_context(redis_server(folder / "redis", append_only=True))
        ports = []
        for number, changes in enumerate(agents):
            audit = {"audit_dir": folder / "audit" / str(number), "instance": f"agent-{number}"}
            settings = settings_of(mesh, folder, url, **audit, **changes)
            ports.append((await stack.enter_async_context(running(settings))).port)
        fleet = Fleet(mesh, ports, folder, url)
        yield fleet
        await fleet.close()


def wanted(tool: str, arguments: dict[str, Any] | None = None, **fields: Any) -> pb.CreateJobRequest:
    request_id = fields.pop("request_id", "")
    job = pb.Job(tool=f"tools/{tool}", **fields)
    if arguments:
        struct = Struct()
        struct.update(arguments)
        job.payload.append(part_pb2.Part(json=struct))
    return pb.CreateJobRequest(job=job, request_id=request_id)


def moment(seconds_from_now: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(utc_now() + timedelta(seconds=seconds_from_now))
    return stamp


async def created(stub: Any, request: pb.CreateJobRequest) -> pb.Job:
    job: pb.Job = (await stub.CreateJob(request)).job
    return job


async def events_of(stub: Any, name: str, *, resume_token: str = "") -> list[pb.WatchJobResponse]:
    request = pb.WatchJobRequest(name=name, resume_token=resume_token)
    async with asyncio.timeout(HANG_GUARD_S):
        return [event async for event in stub.WatchJob(request)]


async def ended(stub: Any, name: str) -> pb.Job:
    last = (await events_of(stub, name))[-1]
    assert last.WhichOneof("event") == "end"
    return last.end


async def reached(stub: Any, name: str, condition: Callable[[pb.Job], bool]) -> pb.Job:
    async with asyncio.timeout(HANG_GUARD_S):
        while True:
            job: pb.Job = (await stub.GetJob(pb.GetJobRequest(name=name))).job
            if condition(job):
                return job
            await asyncio.sleep(0.02)


async def failure(call: Awaitable[Any]) -> tuple[ErrorKind, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = details_of(caught.value)
    return details.kind, details.reason


def starts(file: Path) -> list[str]:
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
