"""Processes of the carbon service, and Redis, killed at any moment; holders that follow the rules."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import psutil
import pytest

from aegis.carbon.v1 import plan_service_pb2 as plan_pb
from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_common.clock import utc_now
from aegis_common.reservation_holder import Effect, ReservationHolder, Signal
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.times import duration, timestamp
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_ports
from aegis_common.testing.redis import RedisServer

pytestmark = pytest.mark.long
Report = pb.ReportReservationRequest
_EVENTS: Final = {
    Effect.START: Report.EVENT_STARTED,
    Effect.SUSPEND: Report.EVENT_SUSPENDED,
    Effect.RESUME: Report.EVENT_RESUMED,
}
_SIGNALS: Final = {
    pb.ReservationSignal.KIND_START: Signal.START,
    pb.ReservationSignal.KIND_SUSPEND: Signal.SUSPEND,
    pb.ReservationSignal.KIND_RESUME: Signal.RESUME,
    pb.ReservationSignal.KIND_DEADLINE: Signal.DEADLINE,
}


class Replicas:
    """Two carbon processes over one Redis."""

    def __init__(self, mesh: Mesh, redis: RedisServer, folder: Path) -> None:
        self.mesh, self._redis, self._folder = mesh, redis, folder
        self.ports = free_ports(2)
        self._ops = free_ports(2)
        self._processes: list[psutil.Popen | None] = [None, None]

    def start(self, number: int) -> None:
        prefix = "AEGIS_CARBON_"
        values = {
            "LISTEN": f"127.0.0.1:{self.ports[number]}",
            "OPS_LISTEN": f"127.0.0.1:{self._ops[number]}",
            "PROVIDERS": "replay",
            "REPLAY_SPEED": "1440",
            "CAPACITY_POOLS": '{"gpus": 3}',
            "AUDIT_DIR": str(self._folder / f"audit-{number}"),
        }
        environment = self.mesh.service_env(prefix, "carbon")
        environment |= {prefix + name: value for name, value in values.items()}
        environment |= {"REDIS_URL": self._redis.url, "PATH": os.environ["PATH"]}
        with (self._folder / f"replica-{number}.log").open("ab") as log:
            self._processes[number] = psutil.Popen(
                [str(Path(sys.executable).with_name("aegis-carbon"))], env=environment, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        if (process := self._processes[number]) is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            self._processes[number] = None

    async def ready(self, number: int) -> None:
        async with self.mesh.channel(self.ports[number], "carbon", account="agent") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)


@pytest.fixture
def replicas(
    durable: RedisServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    made = Replicas(Mesh(tmp_path_factory.mktemp("mesh")), durable, tmp_path)
    yield made
    made.kill(0)
    made.kill(1)


class Holder:
    """Holds one reservation as the command line does: watches, reports, and is never late."""

    def __init__(self, made: pb.Reservation, stubs: list[pb_grpc.ReservationServiceAsyncStub]) -> None:
        self.name, self._stubs = made.name, stubs
        self.deadline = made.job.deadline.ToDatetime(tzinfo=UTC)
        self._work = made.job.duration.ToTimedelta()
        self._rules = ReservationHolder(
            self.deadline, self._work, start_token=made.start_token, interruptible=True
        )
        self._take(made)
        self._news = asyncio.Event()
        self.starts = 0
        self.ended: datetime | None = None
        self._since: datetime | None = None
        self._done = timedelta(0)

    async def run(self) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            while self.ended is None:
                await self._step()
        finally:
            watching.cancel()

    async def _step(self) -> None:
        now = utc_now()
        worked = self._done + (now - self._since if self._since else timedelta(0))
        if worked >= self._work:
            self.ended = now
            await self._report(Report.EVENT_FINISHED, self._rules.token, worked)
            return
        order = self._rules.order(now, asyncio.get_running_loop().time(), worked=worked)
        if order.effect is not None:
            self.starts += order.effect is Effect.START
            self._done, self._since = (worked, None) if order.effect is Effect.SUSPEND else (worked, now)
            asyncio.create_task(self._report(_EVENTS[order.effect], order.token, worked))  # noqa: RUF006
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await self._news.wait()

    async def _watch(self) -> None:
        token, number = "", 0
        while True:
            number += 1
            request = pb.WatchReservationRequest(name=self.name, resume_token=token)
            with suppress(grpc.aio.AioRpcError):
                async for event in self._stubs[number % 2].WatchReservation(request, timeout=20):
                    token = event.resume_token
                    if event.HasField("reservation"):
                        self._take(event.reservation)
                    if event.HasField("signal"):
                        self._told(event.signal)
                    self._news.set()
            await asyncio.sleep(0.1)

    def _take(self, item: pb.Reservation) -> None:
        if item.HasField("signal"):
            self._told(item.signal)
        latest = item.latest_start_time.ToDatetime(tzinfo=UTC)
        self._rules.answered(item.signal.token, latest if item.HasField("latest_start_time") else None)

    def _told(self, told: pb.ReservationSignal) -> None:
        latest = told.latest_start_time.ToDatetime(tzinfo=UTC)
        self._rules.told(
            told.token, _SIGNALS[told.kind], latest if told.HasField("latest_start_time") else None
        )

    async def _report(self, event: int, token: int, worked: timedelta) -> None:
        report = Report(
            name=self.name,
            event=event,  # type: ignore[arg-type]  # one of the enum
            token=token,
            holder="h",
            event_time=timestamp(utc_now()),
            work_done=duration(min(worked, self._work)),
        )
        for number in range(4):
            with suppress(grpc.aio.AioRpcError):
                await self._stubs[number % 2].ReportReservation(report, timeout=2)
                return
            await asyncio.sleep(0.2)


async def reserve(
    stubs: list[pb_grpc.ReservationServiceAsyncStub], rng: random.Random, request_id: str
) -> pb.Reservation | None:
    """Reserve some seconds of work; None if its pool is full, or nobody answers in time."""
    work = rng.uniform(0.5, 2.5)
    job = plan_pb.PlannedJob(
        zones=["zones/demo-day"],
        duration=duration(timedelta(seconds=work)),
        deadline=timestamp(utc_now() + timedelta(seconds=work + rng.uniform(3, 15))),
        interruption=plan_pb.Interruption(),
    )
    asked = pb.Reservation(job=job, capacity_pool=rng.choice(["", "gpus"]))
    request = pb.CreateReservationRequest(reservation=asked, request_id=request_id)
    for number in range(4):
        try:
            return (await stubs[number % 2].CreateReservation(request, timeout=2)).reservation
        except grpc.aio.AioRpcError as error:
            if details_of(error).reason == "INFEASIBLE_JOB":
                return None
        await asyncio.sleep(0.1)
    return None


async def test_no_kill_of_a_replica_or_of_redis_makes_work_late_or_starts_it_twice(
    replicas: Replicas, durable: RedisServer
) -> None:
    rng = random.Random(5)  # noqa: S311  # no secret
    for number in range(2):
        replicas.start(number)
    await asyncio.gather(replicas.ready(0), replicas.ready(1))
    mesh = replicas.mesh
    async with (
        mesh.channel(replicas.ports[0], "carbon", account="agent") as first,
        mesh.channel(replicas.ports[1], "carbon", account="agent") as second,
    ):
        stubs = [pb_grpc.ReservationServiceStub(first), pb_grpc.ReservationServiceStub(second)]
        holders: list[Holder] = []
        running: list[asyncio.Task[None]] = []

        async def come(count: int) -> None:
            for _ in range(count):
                made = await reserve(stubs, rng, f"r{len(holders)}-{rng.random()}")
                if made is not None:
                    holders.append(Holder(made, stubs))
                    running.append(asyncio.create_task(holders[-1].run()))

        await come(6)
        replicas.kill(0)
        await come(6)
        durable.kill()
        await asyncio.sleep(1)
        durable.start()
        await come(6)
        replicas.start(0)
        await replicas.ready(0)
        replicas.kill(1)
        await come(6)
        replicas.kill(0)  # and left dead
        await asyncio.gather(*running)

        assert len(holders) > 12
        assert [] == [holder.name for holder in holders if holder.starts != 1]
        assert [] == [holder.name for holder in holders if (holder.ended or utc_now()) > holder.deadline]
