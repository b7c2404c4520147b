"""The holder of a reservation beside a real carbon service, which is also killed, or has another holder."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from aegis_carbon.main import running
from aegis_carbon.settings import Settings
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_client import (
    Aborted,
    AsyncClient,
    FailedPrecondition,
    PlannedJob,
    Profile,
    ReservationHold,
    RetryPolicy,
)
from aegis_client.profiles import write_profiles
from aegis_common.pki import server_dns
from aegis_common.testing.pki import NAMESPACE, Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import RedisServer

DARK = "zones/GB"
"""Nothing is known of it."""
QUICK = RetryPolicy(first_delay_s=0.01, max_delay_s=0.05)


class Carbon:
    """A carbon service that can be killed."""

    def __init__(self, mesh: Mesh, settings: Settings) -> None:
        self._settings, self._mesh = settings, mesh
        self._up = AsyncExitStack()
        self.port = free_port()

    async def start(self) -> None:
        self.port = (await self._up.enter_async_context(running(self._settings))).port

    async def kill(self) -> None:
        await self._up.aclose()

    @property
    def profile(self) -> Profile:
        tls = self._mesh.tls("agent")
        name = server_dns("carbon", NAMESPACE)
        address = f"127.0.0.1:{self.port}"
        return Profile(address=address, ca=tls.bundle, cert=tls.cert, key=tls.key, server_name=name)

    def client(self) -> AsyncClient:
        return AsyncClient(self.profile, retry=QUICK)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
async def carbon(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Carbon]:
    redis = RedisServer(tmp_path / "redis", append_only=True)
    redis.start()
    with UkApi.serving() as api:
        api.default = Answer(None, 400)
        kwargs = {**mesh.service_kwargs("carbon"), "audit_dir": tmp_path, "drain": timedelta(0)}
        kwargs |= {"api_url": api.url, "redis_url": SecretStr(redis.url), "capacity_pools": {"one": 1}}
        made = Carbon(mesh, Settings(**kwargs))
        await made.start()
        yield made
        await made.kill()
    redis.stop()


def job(length: float, within: float, **more: object) -> PlannedJob:
    deadline = datetime.now(UTC) + timedelta(seconds=within)
    return PlannedJob(duration=length, deadline=deadline, zones=[DARK], **more)  # type: ignore[arg-type]


async def test_the_start_is_told_once_and_what_was_done_is_reported(carbon: Carbon) -> None:
    async with carbon.client() as client:
        async with ReservationHold(client, job(5, 60), holder="me") as hold:
            effects = []
            async for order in hold:
                effects.append((order.effect, order.token, order.by_itself))
                hold.end()
        assert hold.reservation is not None
        ended = await client.reservations.get(hold.reservation.name)
        listed = [item.name async for item in client.reservations.list(states=["finished"])]

    assert [("START", 1, False)] == effects
    assert ("FINISHED", False) == (ended.state, ended.end_assumed)
    assert ended.start_time is not None
    assert [ended.name] == listed


async def test_work_starts_by_itself_in_time_though_the_service_was_killed(carbon: Carbon) -> None:
    waits = job(1, 4)
    async with (
        carbon.client() as client,
        ReservationHold(client, waits, on_missing="run_at_latest_start") as hold,
    ):
        assert hold.reservation is not None
        assert "WAITING" == hold.reservation.state
        await carbon.kill()
        order = await anext(aiter(hold))
        started = datetime.now(UTC)

    assert ("START", 1, True) == (order.effect, order.token, order.by_itself)
    assert waits.deadline is not None
    assert started + timedelta(seconds=1) <= waits.deadline


async def test_without_any_service_it_starts_at_the_latest_start(mesh: Mesh, carbon: Carbon) -> None:
    await carbon.kill()
    asked = job(1, 3)
    async with carbon.client() as client, ReservationHold(client, asked) as hold:
        latest = hold.latest_start
        order = await anext(aiter(hold))

    assert ("START", True, None) == (order.effect, order.by_itself, hold.reservation)
    assert hold.fault
    assert asked.deadline is not None
    assert latest + timedelta(seconds=1) <= asked.deadline


async def test_a_second_holder_of_the_same_reservation_does_not_run_the_work(carbon: Carbon) -> None:
    asked = job(5, 60)
    async with (
        carbon.client() as client,
        ReservationHold(client, asked, request_id="same", holder="a") as first,
        ReservationHold(client, asked, request_id="same", holder="b") as second,
    ):
        assert (await anext(aiter(first))).effect == "START"
        await first.reported()
        with pytest.raises(Aborted, match="'a' holds this work"):
            async for _ in second:
                pass


async def test_a_cancelled_reservation_gives_no_order(carbon: Carbon) -> None:
    async with (
        carbon.client() as client,
        ReservationHold(client, job(1, 600), on_missing="run_at_latest_start") as hold,
    ):
        assert hold.reservation is not None
        await client.reservations.cancel(hold.reservation.name)
        orders = [order async for order in hold]

    assert [] == orders


async def test_what_cannot_end_in_time_is_refused_with_the_earliest_finish(carbon: Carbon) -> None:
    async with carbon.client() as client:
        with pytest.raises(FailedPrecondition) as refused:
            await ReservationHold(client, job(60, 5)).__aenter__()

    assert ("INFEASIBLE_JOB", True) == (refused.value.reason, "earliest_finish" in refused.value.metadata)


@pytest.fixture
def aegis(carbon: Carbon, tmp_path: Path) -> Callable[..., Awaitable[asyncio.subprocess.Process]]:
    """Start `aegis carbon ...` as a process of its own."""
    file = tmp_path / "profiles.toml"
    write_profiles(file, {"here": carbon.profile}, default="here")

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        program = "import sys; from aegis_client.cli.app import run; sys.exit(run(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "--profile-file", str(file), "carbon", *arguments]
        return await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

    return start


async def test_a_command_holds_a_reservation_and_gives_its_exit_code(
    carbon: Carbon, aegis: Callable[..., Awaitable[asyncio.subprocess.Process]]
) -> None:
    options = ("--duration", "20s", "--within", "5m", "--zone", "GB")
    process = await aegis("run", *options, "--", "sh", "-c", "exit 3")
    _, told = await process.communicate()
    async with carbon.client() as client:
        (held,) = [item async for item in client.reservations.list()]
    listing = await aegis("reservations", "list", "--state", "finished")
    printed, _ = await listing.communicate()

    assert (3, True) == (process.returncode, b"nothing is known of the grid" in told), told
    assert ("FINISHED", False) == (held.state, held.end_assumed)
    assert held.name.removeprefix("reservations/").encode() in printed


async def test_a_command_is_not_run_beside_a_full_pool(
    carbon: Carbon, aegis: Callable[..., Awaitable[asyncio.subprocess.Process]]
) -> None:
    async with carbon.client() as client, ReservationHold(client, job(100, 110), pool="one"):
        options = ("--duration", "100s", "--within", "110s", "--zone", "GB", "--pool", "one")
        process = await aegis("run", *options, "--", "echo", "ran")
        printed, told = await process.communicate()

    assert (1, b"") == (process.returncode, printed)
    assert b"pool 'one' runs 1 at once" in told
    assert b"ask for the deadline" in told


@pytest.mark.long
async def test_a_command_runs_in_time_though_the_service_was_killed_while_it_waited(
    carbon: Carbon, aegis: Callable[..., Awaitable[asyncio.subprocess.Process]]
) -> None:
    asked = time.monotonic()
    options = ("--duration", "2s", "--within", "15s", "--zone", "GB", "--on-missing", "run_at_latest_start")
    process = await aegis("run", *options, "--", "sh", "-c", "echo ran; exit 4")
    assert process.stderr is not None
    waits = await process.stderr.readline()
    await carbon.kill()
    printed, told = await process.communicate()

    assert (4, b"ran\n") == (process.returncode, printed), told
    assert b"starts: latest start" in told
    assert b"waits" in waits
    assert time.monotonic() - asked > 10  # it did wait: not for the service, but for its latest start
