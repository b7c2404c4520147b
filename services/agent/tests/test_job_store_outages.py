"""The job store and its Redis: which it refuses, and what outlives an outage of it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket as sockets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
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
    taken,
)

from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs.connection import Connection, connect
from aegis_agent.adapters.jobs.events import Teller, read
from aegis_agent.adapters.jobs.queue import HELD
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.adapters.jobs.store import RedisJobStore, insist
from aegis_agent.domain.call import Checkpoint, LogLine, Priority, Progress
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import (
    JobStoreUnavailable,
)
from aegis_agent.domain.jobs.job import Failure, JobRef, Phase, State
from aegis_agent.domain.rooms import Rooms
from aegis_common.background import ended
from aegis_common.errors import ConfigurationError, ErrorKind
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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may kill."""
    made = RedisServer(tmp_path / "redis", append_only=True)
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def own_store(server: RedisServer) -> AsyncIterator[RedisJobStore]:
    async with store_on(server.url) as made:
        yield made


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


async def test_the_redis_user_of_the_manual_may_do_all_that_jobs_need(server: RedisServer) -> None:
    manual = Path(__file__).parent.parent.joinpath("README.md").read_text()
    (rights,) = re.findall(r"and `(\+@read [^`]*)`", manual)
    async with connect(server.url) as admin:
        words = ["on", ">secret", "~agent:jobs:*", "resetchannels", "&agent:jobs:*", *rights.split()]
        await admin.execute_command("ACL", "SETUSER", "jobs", *words)  # type: ignore[no-untyped-call]
        await admin.execute_command("ACL", "SETUSER", "less", *words, "-time")  # type: ignore[no-untyped-call]
    heard: list[JobRef] = []
    url = server.url.replace("unix://", "unix://jobs:secret@")
    async with connect(server.url.replace("unix://", "unix://less:secret@")) as client:
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


async def test_leases_are_spared_after_an_outage(own_store: RedisJobStore, server: RedisServer) -> None:
    store = own_store
    clock = Clock()
    job = await kept(store, clock)
    a = queue_of(store, "a")
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a")
    async with keeper_of(store, clock):
        server.kill()
        await asyncio.sleep(LEASE.total_seconds() * 1.5)
        await asyncio.to_thread(server.start)
        states: list[int] = await insist(lambda: a.renew([entry]), pause_s=0.02)
    assert states == [HELD]
    assert (await store.load(job.ref)).phase is Phase.RUNNING


async def test_leases_are_spared_after_a_halt_that_nobody_took_for_an_outage(
    own_store: RedisJobStore, server: RedisServer
) -> None:
    store, a = own_store, queue_of(own_store, "a")
    job = await kept(store, Clock())
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a", idempotent=False)
    async with keeper_of(store, Clock()):

        async def steady() -> bool:
            await a.renew([entry])
            return store.connection.steady_for() > LEASE.total_seconds()

        await eventually(steady)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        await asyncio.sleep(LEASE.total_seconds() * 1.6)
        os.kill(server.pid, signal.SIGCONT)
        await asyncio.sleep(LEASE.total_seconds() * 0.8)  # a runner that is slow to come back
        states = await a.renew([entry])

    assert states == [HELD]
    assert (await store.load(job.ref)).runs


@asynccontextmanager
async def relay(target: Path, name: Path) -> AsyncIterator[Callable[[], None]]:
    """Stand between a client and Redis; what is given makes its present connections hang."""
    hung: set[asyncio.Task[None]] = set()
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        while data := await reader.read(1 << 16):
            if me not in hung:
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_unix_connection(target)
        made = [asyncio.create_task(pipe(reader, inner[1])), asyncio.create_task(pipe(inner[0], writer))]
        pipes.update(made)
        await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        inner[1].close()

    server = await asyncio.start_unix_server(serve, name)
    try:
        yield lambda: hung.update(pipes)
    finally:
        server.close()
        await ended(*pipes)


async def test_signals_are_heard_again_after_their_connection_fell_silent(
    server: RedisServer, tmp_path: Path
) -> None:
    heard: list[JobRef] = []
    async with (
        relay(server.socket, tmp_path / "relay") as hang,
        connect(f"unix://{tmp_path / 'relay'}") as client,
        connect(server.url) as direct,
        Signals(client, on_cancel=heard.append, quiet_s=0.1),
    ):

        async def told() -> bool:
            heard.clear()
            await direct.publish(keys.SIGNALS, f"{keys.CANCEL} red/1")
            await asyncio.sleep(0.02)
            return bool(heard)

        await eventually(told)
        hang()
        assert not await told()
        await eventually(told)


async def test_no_piece_of_work_waits_for_ever(server: RedisServer, tmp_path: Path) -> None:
    async with (
        relay(server.socket, tmp_path / "relay") as hang,
        connect(f"unix://{tmp_path / 'relay'}") as client,
    ):
        bounded = Connection(client, limit_s=0.3, checked=True)
        await bounded.run(lambda used: used.ping())
        hang()
        with pytest.raises(JobStoreUnavailable):
            await bounded.run(lambda used: used.ping())

        assert await bounded.run(lambda used: used.ping())  # over a new connection


async def test_what_was_acknowledged_outlives_a_kill(own_store: RedisJobStore, server: RedisServer) -> None:
    store = own_store
    clock = Clock()
    jobs = [await kept(store, clock) for _ in range(3)]
    (entry, *_) = await taken(store, "a", 1)
    done = await begin(store, jobs[0], entry, "a")
    await complete(store, done, 1)
    server.kill()
    with pytest.raises(JobStoreUnavailable):
        await store.load(jobs[0].ref)
    await asyncio.to_thread(server.start)

    assert [(await store.load(job.ref)).state for job in jobs] == [
        State.COMPLETED,
        State.WORKING,
        State.WORKING,
    ]
    assert (await store.load_whole(done.ref)).result == b"out"
    assert len(await taken(store, "b", 9)) == 2


@pytest.mark.parametrize(
    ("name", "value", "mended"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
)
async def test_a_redis_that_takes_no_writes_is_away_and_loses_nothing(
    own_store: RedisJobStore, name: str, value: str, mended: str
) -> None:
    store, clock = own_store, Clock()
    job = await kept(store, clock)
    (entry,) = await taken(store, "a", 1)
    begun = await begin(store, job, entry, "a")
    client = store.connection.client
    await client.config_set(name, value)
    with pytest.raises(JobStoreUnavailable) as refused:
        await kept(store, clock)
    with pytest.raises(JobStoreUnavailable):
        await store.connection.run(lambda used: used.hset("agent:jobs:x", "a", "b"))
    writing = asyncio.create_task(insist(lambda: complete(store, begun, 1), pause_s=0.02))
    await asyncio.sleep(0.1)
    assert not writing.done()
    await client.config_set(name, mended)
    await writing

    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert (await store.load(job.ref)).state is State.COMPLETED


async def test_a_primary_that_became_a_replica_is_left_for_the_new_one(tmp_path: Path) -> None:
    servers = [RedisServer(tmp_path / name, append_only=True) for name in ("old", "new")]
    name = tmp_path / "primary.sock"
    for server in servers:
        server.start()
    try:
        name.symlink_to(servers[0].socket)
        async with store_on(f"unix://{name}") as store:
            await kept(store, Clock())
            await store.connection.run(lambda client: client.execute_command("REPLICAOF", "127.0.0.1", "1"))
            with pytest.raises(JobStoreUnavailable):
                await kept(store, Clock())
            name.unlink()
            name.symlink_to(servers[1].socket)
            job = await kept(store, Clock())

            assert (await store.load(job.ref)).state is State.WORKING
    finally:
        for server in servers:
            server.stop()


async def test_an_outage_in_the_middle_loses_no_line(own_store: RedisJobStore, server: RedisServer) -> None:
    store = own_store
    clock = Clock()
    job = await kept(store, clock)
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a")
    teller = Teller(store, job.ref, attempt=1, runner="a")
    writing = asyncio.create_task(teller.write())
    server.kill()
    await teller.take(LogLine(level="INFO", message="while away"))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.start)
    await teller.take(LogLine(level="INFO", message="back"))

    async def lines() -> list[bytes]:
        return [e.data for e in await read(store, job.ref, after="0-0", count=99) if e.kind == "log"]

    async def both() -> bool:
        return len(await lines()) == 2

    await eventually(both)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert await lines() == [b'["INFO", "while away"]', b'["INFO", "back"]']


async def test_a_tool_with_much_to_say_goes_on_while_the_store_is_away(
    own_store: RedisJobStore, server: RedisServer
) -> None:
    job = await kept(own_store, Clock())
    (entry,) = await taken(own_store, "a", 1)
    await begin(own_store, job, entry, "a")
    teller = Teller(own_store, job.ref, attempt=1, runner="a")
    writing = asyncio.create_task(teller.write())
    server.kill()
    for number in range(400):
        await asyncio.wait_for(teller.take(LogLine(level="INFO", message=f"{number}")), 60)
        await teller.take(Progress(done=number))
        await asyncio.sleep(0.005)
    assert len(teller._batch) + teller._lines.qsize() < 150
    await asyncio.to_thread(server.start)

    async def last_told() -> bool:
        told = await read(own_store, job.ref, after="0-0", count=999)
        return b'["INFO", "399"]' in [event.data for event in told]

    await eventually(last_told)
    await ended(writing)


def test_errors_keep_what_they_say() -> None:
    error = JobStoreUnavailable.because("it is away")
    failure = Failure.of(error)

    assert (failure.kind, failure.reason) == (ErrorKind.UNAVAILABLE, "JOB_STORE_UNAVAILABLE")
    assert failure.retryable


async def test_a_server_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    async with redis.asyncio.Redis.from_url(f"unix://{tmp_path / 'none'}") as client:
        with pytest.raises(JobStoreUnavailable) as caught:
            await Connection(client).check(strict=True)

    assert caught.value.retry_after == timedelta(seconds=1)
