"""Which Redis may keep jobs: one that may lose them is refused, with what to set."""

from __future__ import annotations

import asyncio
import logging
import re
import socket as sockets
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import redis.asyncio
from services.agent.tests.job_stores import (
    LEASE,
    Clock,
    begin,
    complete,
    eventually,
    keeper_of,
    kept,
    queue_of,
    store_on,
)

from aegis_agent.adapters.jobs.connection import Connection, connect
from aegis_agent.adapters.jobs.events import Teller
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.domain.call import Checkpoint, LogLine, Priority
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import (
    JobStoreUnavailable,
)
from aegis_agent.domain.jobs.job import JobRef, State
from aegis_agent.domain.rooms import Rooms
from aegis_common.errors import ConfigurationError
from aegis_common.redis_binary import find_redis_server
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import RedisServer
from aegis_common.testing.waiting import until


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def listens(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def cluster_port() -> int:
    """Return a free port; a cluster listens on the one 10000 further up too."""
    while (port := free_port()) > 55_000:
        pass
    return port


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--appendonly", "no"], "appendonly yes"),
        (["--appendonly", "yes", "--appendfsync", "everysec"], "appendfsync everysec"),
        (
            ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru"],
            "maxmemory-policy allkeys-lru",
        ),
        (["--cluster-enabled", "yes", "--appendonly", "yes", "--appendfsync", "always"], "Redis Cluster"),
        (
            ["--replicaof", "127.0.0.1", "1", "--appendonly", "yes", "--appendfsync", "always"],
            "read-only replica",
        ),
    ],
)
async def test_a_redis_that_may_lose_jobs_is_refused(
    tmp_path: Path, options: list[str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    socket = tmp_path / "s"
    command = [str(find_redis_server()), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    if "--cluster-enabled" in options:
        command[1:3] = ["--port", str(cluster_port()), "--bind", "127.0.0.1"]
    process = start([*command, "--save", "", *options], tmp_path)
    try:
        await until(lambda: listens(socket))
        async with connect(f"unix://{socket}") as client:
            unsafe = Connection(client)
            with pytest.raises(ConfigurationError) as caught:
                await unsafe.check(strict=True)
            assert named in caught.value.message
            with pytest.raises(JobStoreUnavailable):
                await unsafe.run(lambda used: used.ping())
            if named in ("Redis Cluster", "read-only replica"):
                with pytest.raises(ConfigurationError):
                    await unsafe.check(strict=False)
            else:
                with caplog.at_level(logging.WARNING):
                    await unsafe.check(strict=False)
                assert "JOBS MAY BE LOST" in caplog.text
                assert await unsafe.run(lambda used: used.ping())
    finally:
        process.kill()
        process.wait()


async def test_the_redis_of_a_deployment_is_accepted(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    command = [str(find_redis_server()), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    options = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    process = start([*command, *options], tmp_path)
    try:
        await until(lambda: listens(socket))
        async with connect(f"unix://{socket}") as client:
            await Connection(client).check(strict=True)
    finally:
        process.kill()
        process.wait()


async def test_the_redis_user_of_the_manual_may_do_all_that_jobs_need(own_redis: RedisServer) -> None:
    manual = Path(__file__).parent.parent.joinpath("README.md").read_text()
    (rights,) = re.findall(r"and `(\+@read [^`]*)`", manual)
    async with connect(own_redis.url) as admin:
        words = ["on", ">secret", "~agent:jobs:*", "resetchannels", "&agent:jobs:*", *rights.split()]
        await admin.execute_command("ACL", "SETUSER", "jobs", *words)  # type: ignore[no-untyped-call]
        await admin.execute_command("ACL", "SETUSER", "less", *words, "-time")  # type: ignore[no-untyped-call]
    heard: list[JobRef] = []
    url = own_redis.url.replace("unix://", "unix://jobs:secret@")
    async with connect(own_redis.url.replace("unix://", "unix://less:secret@")) as client:
        with pytest.raises(ConfigurationError) as caught:
            await Connection(client).check(strict=False)
        assert "allow this user TIME" in caught.value.message
    async with store_on(url) as store:
        await store.connection.check(strict=True)
        queue, keeper = queue_of(store, "a"), keeper_of(store, Clock())
        async with Signals(store.connection.client, on_cancel=heard.append):
            jobs = [await kept(store, Clock(), request_id=f"r{number}") for number in range(2)]
            await queue.announce([("", "t")])
            first, second = (await queue.take(2, Rooms({("", "t"): 2}))).entries
            await begin(store, jobs[0], first, "a")
            teller = Teller(store, jobs[0].ref, attempt=1, runner="a")
            await teller.take(Checkpoint(b"c"))
            await teller.take(LogLine(level="INFO", message="m"))
            await teller.finish()
            await queue.renew([first, second])
            assert await queue.held() == [first, second]
            await asyncio.sleep(LEASE.total_seconds() + 0.05)
            assert await queue.expired(9) == [first.entry, second.entry]
            await complete(store, jobs[0], 1)
            await queue.claim(second.entry)
            await queue.drop(second)
            for step in (keeper._promote, keeper._delete, queue.forget, queue.leave):
                await step()
            now = Clock().now
            await store.update(
                jobs[1].ref, lambda job: machine.cancel_requested(job, keep=timedelta(0), now=now)
            )
            await store.delete(await store.load(jobs[1].ref), now=now)

            async def told() -> bool:
                return bool(heard)

            await eventually(told)
            assert [kind.name for kind in Priority if await store.queue_length(kind)] == []
            assert (await store.load(jobs[0].ref)).state is State.COMPLETED


async def test_a_server_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    async with redis.asyncio.Redis.from_url(f"unix://{tmp_path / 'none'}") as client:
        with pytest.raises(JobStoreUnavailable) as caught:
            await Connection(client).check(strict=True)

    assert caught.value.retry_after == timedelta(seconds=1)
