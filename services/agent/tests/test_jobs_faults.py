"""Agents, Redis and tool children are killed under load: nothing is lost, and nothing starts twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import from_status
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import RedisServer
from aegis_common.testing.waiting import until

LEASE_S = 3.0
YOUNG_NS = 200_000_000
RANDOM = random.Random()  # noqa: S311  # keeps no secret
AGAIN, ONCE = "note_again", "note_once"
AGAIN_IN_CHILD, ONCE_IN_CHILD = "note_in_child", "note_once_in_child"
KINDS = (AGAIN, ONCE, AGAIN, ONCE, AGAIN_IN_CHILD, ONCE_IN_CHILD)
NOT_IDEMPOTENT = {ONCE, ONCE_IN_CHILD}
# What a kill may make of a job of a tool that is not idempotent.
LOSSES = {"WORKER_LOST", "TOOL_CRASHED"}
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Machine:
    """Two agent processes and a Redis, each of which can be killed and started again."""

    def __init__(self, folder: Path, *, slots: int) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.mesh = Mesh(folder)
        self.redis = RedisServer(folder / "redis", append_only=True)
        self.ports = [free_port(), free_port()]
        self._slots = slots
        self._agents: list[asyncio.subprocess.Process | None] = [None, None]
        self._channels = [
            mesh_channel(f"127.0.0.1:{port}", service="agent", tls=self.mesh.tls("sdk"))
            for port in self.ports
        ]
        self.stubs = [pb_grpc.JobServiceStub(channel) for channel in self._channels]
        self._trusted = folder / "trusted.pem"
        self._trusted.write_bytes(public_key_pem(new_ed25519(folder / "signing.key")))

    def _environment(self, number: int) -> dict[str, str]:
        kinds = sorted(set(KINDS))
        settings = {
            "LISTEN": f"127.0.0.1:{self.ports[number]}",
            "MODEL_STORE_URL": f"file://{self.folder / 'store'}",
            "MODEL_TRUSTED_KEYS": json.dumps([str(self._trusted)]),
            "TOOLS": json.dumps([f"aegis_agent.testing.job_tools:{kind}" for kind in kinds]),
            "PLUGINS": "false",
            "WARM_UP": "false",
            "JOB_STORE_CHECK": "warn",
            "JOB_LEASE": str(LEASE_S),
            "JOB_SLOTS": str(self._slots),
            "DRAIN": "2",
            "INSTANCE": f"agent-{number}",
            "LOG_LEVEL": "WARNING",
            "REDIS_URL": self.redis.url,
        }
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        common = self.mesh.service_env("AEGIS_AGENT_", "agent")
        common["AEGIS_AGENT_AUDIT_DIR"] = str(self.folder / "audit" / f"{number}")
        return {**inherited, **common, **{f"AEGIS_AGENT_{name}": value for name, value in settings.items()}}

    async def start_agent(self, number: int) -> None:
        log = (self.folder / f"agent-{number}.log").open("ab")
        command = (sys.executable, "-m", "aegis_agent.main")
        environment = self._environment(number)
        self._agents[number] = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=log, stderr=log
        )
        log.close()

    async def kill_agent(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        process = self._agents[number]
        if process is not None:
            process.send_signal(how)
            await process.wait()

    def pids(self) -> set[int]:
        return {process.pid for process in self._agents if process is not None}

    def kill_child(self) -> bool:
        """Kill a child that has just started a tool."""
        lines = self.notes.read_text().splitlines()[-20:] if self.notes.exists() else []
        for line in reversed(lines):
            _, pid, noted_ns = line.split()
            young = time.monotonic_ns() - int(noted_ns) < YOUNG_NS
            if young and int(pid) not in self.pids() and Path(f"/proc/{pid}").exists():
                os.kill(int(pid), signal.SIGKILL)
                return True
        return False

    async def restart_redis(self, away_s: float) -> None:
        self.redis.kill()
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.redis.start)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))
        for number in range(2):
            await self.kill_agent(number)
        self.redis.stop()


@asynccontextmanager
async def machine_in(folder: Path, *, slots: int) -> AsyncIterator[Machine]:
    machine = Machine(folder, slots=slots)
    try:
        await asyncio.to_thread(machine.redis.start)
        for number in range(2):
            await machine.start_agent(number)
        for stub in machine.stubs:
            await stub.ListJobs(pb.ListJobsRequest(), wait_for_ready=True, timeout=90)
        yield machine
    finally:
        await machine.close()


@dataclass
class Load:
    """Jobs that were acknowledged, and results that were seen."""

    machine: Machine
    kind_of: dict[str, str] = field(default_factory=dict)
    name_of: dict[str, str] = field(default_factory=dict)
    seen: dict[str, pb.Job] = field(default_factory=dict)
    turn: int = 0

    async def call(self, method: str, request: Any) -> Any:
        """Call whichever agent answers, until one does."""
        while True:
            turn = self.turn
            try:
                return await getattr(self.machine.stubs[turn % 2], method)(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() not in AWAY:
                    raise
                self.turn = turn + 1
                await asyncio.sleep(0.1)

    async def create(self, number: int) -> None:
        kind, key = KINDS[number % len(KINDS)], f"{KINDS[number % len(KINDS)]}-{number}"
        arguments = Struct()
        seconds = RANDOM.choice((0.0, 0.0, 0.05, 0.3))
        arguments.update({"file": str(self.machine.notes), "key": key, "seconds": seconds})
        attempts = 1 if kind in NOT_IDEMPOTENT else 20
        job = pb.Job(
            tool=f"tools/{kind}",
            payload=[part_pb2.Part(json=arguments)],
            retry_policy=pb.JobRetryPolicy(max_attempts=attempts),
        )
        job.retry_policy.initial_backoff.FromMilliseconds(50)
        request = pb.CreateJobRequest(job=job, request_id=str(uuid.uuid4()))
        answer = await self.call("CreateJob", request)
        self.kind_of[key], self.name_of[key] = kind, answer.job.name

    async def look(self, key: str) -> pb.Job:
        """Return the job; an ended one is remembered as it was first seen."""
        job: pb.Job = (await self.call("GetJob", pb.GetJobRequest(name=self.name_of[key]))).job
        if job.state != pb.Job.STATE_WORKING:
            first = self.seen.setdefault(key, job)
            changed = difference(first, job)
            assert not changed, f"{key} has changed after its end: {changed}"
        return job


def difference(first: pb.Job, second: pb.Job) -> dict[str, Any]:
    """Return the fields that differ, with both values; details of an error have no order as bytes."""
    both = [MessageToDict(job) for job in (first, second)]
    names = both[0].keys() | both[1].keys()
    return {name: [one.get(name) for one in both] for name in names if both[0].get(name) != both[1].get(name)}


async def create_all(load: Load, count: int) -> None:
    slots = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with slots:
            await load.create(number)

    await asyncio.gather(*(one(number) for number in range(count)))


async def disturb(machine: Machine, done: asyncio.Event, *, pause_s: float) -> Counter[str]:
    """Kill something every now and then, until *done*."""
    counts: Counter[str] = Counter()
    plan = 0
    while not done.is_set():
        plan += 1
        if plan % 4 == 1:
            number = plan // 4 % 2
            await machine.kill_agent(number)
            await machine.start_agent(number)
            counts["agent"] += 1
        elif plan % 4 == 3:
            await machine.restart_redis(RANDOM.uniform(0.0, 1.0))
            counts["redis"] += 1
        else:
            with contextlib.suppress(TimeoutError):
                await until(machine.kill_child, timeout_s=pause_s)
                counts["child"] += 1
        try:
            await asyncio.wait_for(done.wait(), RANDOM.uniform(0.5, 1.5) * pause_s)
        except TimeoutError:
            continue
    return counts


async def settled(load: Load, *, limit_s: float) -> None:
    """Wait until every job has ended, and look at each."""
    left = set(load.name_of)
    give_up = time.monotonic() + limit_s
    while left:
        assert time.monotonic() < give_up, f"{len(left)} jobs have not ended, for example {sorted(left)[:5]}"
        for key in sorted(left):
            if (await load.look(key)).state != pb.Job.STATE_WORKING:
                left.discard(key)
        await asyncio.sleep(0.5)


async def look_around(load: Load, done: asyncio.Event) -> None:
    """Look at jobs while they run, so that a result that changes later is noticed."""
    while not done.is_set():
        for key in RANDOM.sample(sorted(load.name_of), min(20, len(load.name_of))):
            await load.look(key)
        await asyncio.sleep(0.1)


def starts_of(notes: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in notes.read_text().splitlines())


def reason_of(job: pb.Job) -> str:
    return from_status(job.error).reason if job.HasField("error") else ""


async def storm(folder: Path, count: int, *, pause_s: float, limit_s: float) -> dict[str, Any]:
    """Run *count* jobs under kills, check what is promised, and return the figures."""
    begin = time.monotonic()
    async with machine_in(folder, slots=8) as machine:
        load, done = Load(machine), asyncio.Event()
        disturbing = asyncio.create_task(disturb(machine, done, pause_s=pause_s))
        looking = asyncio.create_task(look_around(load, done))
        try:
            await create_all(load, count)
            created_s = time.monotonic() - begin
            # Half of the jobs, or more, run under kills; the last kill is followed by a whole recovery.
            await until(lambda: len(starts_of(machine.notes)) >= 0.9 * count, timeout_s=limit_s)
        finally:
            done.set()
            counts = await disturbing
        await looking
        await settled(load, limit_s=limit_s)
        seen, starts = load.seen, starts_of(machine.notes)
        left = await left_over(machine)

    assert len(seen) == count
    for key, job in seen.items():
        kind, begun = load.kind_of[key], starts[key]
        if job.state == pb.Job.STATE_COMPLETED:
            assert job.result[0].text == key
            assert begun >= 1, f"{key} completed and was never started"
        else:
            assert kind in NOT_IDEMPOTENT, f"{key} may run again and ended {reason_of(job)}"
            assert reason_of(job) in LOSSES, f"{key}: {job.state_message}"
        if kind in NOT_IDEMPOTENT:
            assert begun <= 1, f"{key} was started {begun} times"
    assert not any(left.values()), left
    states = Counter(pb.Job.State.Name(job.state)[6:] for job in seen.values())
    return {
        "jobs": count,
        "kills": dict(counts),
        "states": dict(states),
        "reasons": dict(Counter(filter(None, map(reason_of, seen.values())))),
        "started_again": sum(number - 1 for number in starts.values() if number > 1),
        "created_s": round(created_s, 1),
        "seconds": round(time.monotonic() - begin, 1),
    }


async def left_over(machine: Machine) -> dict[str, Any]:
    """Return what the queues hold of jobs: nothing, once all have ended."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(machine.redis.url) as client:
        return {
            "waiting": sum(map(int, await client.hvals("agent:jobs:waiting"))),
            "running": await client.xlen("agent:jobs:running"),
            "held": await client.hlen("agent:jobs:held"),
            "tenants": await client.scard("agent:jobs:tenants"),
            "queues": len(await client.keys("agent:jobs:t:*:queue:*")),
        }


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_kills_under_load_lose_nothing_and_start_nothing_twice(tmp_path: Path) -> None:
    figures = await storm(tmp_path, 1_500, pause_s=1.0, limit_s=150)

    print(json.dumps(figures))
    assert min(figures["kills"].get(what, 0) for what in ("agent", "redis", "child")) >= 1


@pytest.mark.soak
@pytest.mark.timeout(3000)
async def test_ten_thousand_jobs_under_kills(tmp_path: Path) -> None:
    figures = await storm(tmp_path, 10_000, pause_s=2.0, limit_s=900)

    print(json.dumps(figures))
    assert min(figures["kills"].get(what, 0) for what in ("agent", "redis", "child")) >= 5


async def running_on(load: Load, key: str) -> pb.Job:
    while True:
        job = await load.look(key)
        if job.phase == pb.Job.PHASE_RUNNING and starts_of(load.machine.notes)[key]:
            return job
        assert job.state == pb.Job.STATE_WORKING, job.state_message
        await asyncio.sleep(0.05)


async def start(load: Load, kind: str, key: str, seconds: float) -> None:
    arguments = Struct()
    arguments.update({"file": str(load.machine.notes), "key": key, "seconds": seconds})
    job = pb.Job(tool=f"tools/{kind}", payload=[part_pb2.Part(json=arguments)])
    load.machine.notes.touch()
    answer = await load.call("CreateJob", pb.CreateJobRequest(job=job))
    load.kind_of[key], load.name_of[key] = kind, answer.job.name


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_job_longer_than_its_lease_runs_once_even_when_redis_is_killed(tmp_path: Path) -> None:
    async with machine_in(tmp_path, slots=4) as machine:
        load = Load(machine)
        for kind in (AGAIN, ONCE, AGAIN_IN_CHILD, ONCE_IN_CHILD):
            await start(load, kind, kind, 4 * LEASE_S)
        for kind in load.name_of:
            await running_on(load, kind)
        # Away for longer than a lease: nobody could renew one.
        await machine.restart_redis(1.5 * LEASE_S)
        await settled(load, limit_s=120)

    assert starts_of(machine.notes) == dict.fromkeys(load.name_of, 1)
    assert {reason_of(job) for job in load.seen.values()} == {""}
    assert {job.attempt for job in load.seen.values()} == {1}


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_what_becomes_of_a_job_whose_agent_ends(tmp_path: Path, how: signal.Signals) -> None:
    async with machine_in(tmp_path, slots=4) as machine:
        load = Load(machine)
        for kind in (AGAIN, ONCE):
            await start(load, kind, kind, 8.0)
        messages = [(await running_on(load, kind)).state_message for kind in load.name_of]
        numbers = {int(message.partition("agent-")[2][0]) for message in messages}
        await asyncio.gather(*(machine.kill_agent(number, how) for number in numbers))
        for number in numbers:
            await machine.start_agent(number)
        await settled(load, limit_s=120)

    starts = starts_of(machine.notes)
    assert (load.seen[AGAIN].state, starts[AGAIN]) == (pb.Job.STATE_COMPLETED, 2)
    assert (reason_of(load.seen[ONCE]), starts[ONCE]) == ("WORKER_LOST", 1)
