"""What outlives an outage of the job store's Redis."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
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
from aegis_agent.domain.call import LogLine, Progress
from aegis_agent.domain.jobs.errors import (
    JobStoreUnavailable,
)
from aegis_agent.domain.jobs.job import Failure, JobRef, Phase, State
from aegis_common.background import ended
from aegis_common.errors import ErrorKind
from aegis_common.testing.redis import RedisServer


@pytest.fixture
async def own_store(own_redis: RedisServer) -> AsyncIterator[RedisJobStore]:
    async with store_on(own_redis.url) as made:
        yield made


async def test_leases_are_spared_after_an_outage(own_store: RedisJobStore, own_redis: RedisServer) -> None:
    store = own_store
    clock = Clock()
    job = await kept(store, clock)
    a = queue_of(store, "a")
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a")
    async with keeper_of(store, clock):
        own_redis.kill()
        await asyncio.sleep(LEASE.total_seconds() * 1.5)
        await asyncio.to_thread(own_redis.start)
        states: list[int] = await insist(lambda: a.renew([entry]), pause_s=0.02)
    assert states == [HELD]
    assert (await store.load(job.ref)).phase is Phase.RUNNING


async def test_leases_are_spared_after_a_halt_that_nobody_took_for_an_outage(
    own_store: RedisJobStore, own_redis: RedisServer
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
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGSTOP)
        await asyncio.sleep(LEASE.total_seconds() * 1.6)
        os.kill(own_redis.pid, signal.SIGCONT)
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
    own_redis: RedisServer, tmp_path: Path
) -> None:
    heard: list[JobRef] = []
    async with (
        relay(own_redis.socket, tmp_path / "relay") as hang,
        connect(f"unix://{tmp_path / 'relay'}") as client,
        connect(own_redis.url) as direct,
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


async def test_no_piece_of_work_waits_for_ever(own_redis: RedisServer, tmp_path: Path) -> None:
    async with (
        relay(own_redis.socket, tmp_path / "relay") as hang,
        connect(f"unix://{tmp_path / 'relay'}") as client,
    ):
        bounded = Connection(client, limit_s=0.3, checked=True)
        await bounded.run(lambda used: used.ping())
        hang()
        with pytest.raises(JobStoreUnavailable):
            await bounded.run(lambda used: used.ping())

        assert await bounded.run(lambda used: used.ping())  # over a new connection


async def test_what_was_acknowledged_outlives_a_kill(
    own_store: RedisJobStore, own_redis: RedisServer
) -> None:
    store = own_store
    clock = Clock()
    jobs = [await kept(store, clock) for _ in range(3)]
    (entry, *_) = await taken(store, "a", 1)
    done = await begin(store, jobs[0], entry, "a")
    await complete(store, done, 1)
    own_redis.kill()
    with pytest.raises(JobStoreUnavailable):
        await store.load(jobs[0].ref)
    await asyncio.to_thread(own_redis.start)

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


async def test_an_outage_in_the_middle_loses_no_line(
    own_store: RedisJobStore, own_redis: RedisServer
) -> None:
    store = own_store
    clock = Clock()
    job = await kept(store, clock)
    (entry,) = await taken(store, "a", 1)
    await begin(store, job, entry, "a")
    teller = Teller(store, job.ref, attempt=1, runner="a")
    writing = asyncio.create_task(teller.write())
    own_redis.kill()
    await teller.take(LogLine(level="INFO", message="while away"))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(own_redis.start)
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
    own_store: RedisJobStore, own_redis: RedisServer
) -> None:
    job = await kept(own_store, Clock())
    (entry,) = await taken(own_store, "a", 1)
    await begin(own_store, job, entry, "a")
    teller = Teller(own_store, job.ref, attempt=1, runner="a")
    writing = asyncio.create_task(teller.write())
    own_redis.kill()
    for number in range(400):
        await asyncio.wait_for(teller.take(LogLine(level="INFO", message=f"{number}")), 60)
        await teller.take(Progress(done=number))
        await asyncio.sleep(0.005)
    assert len(teller._batch) + teller._lines.qsize() < 150
    await asyncio.to_thread(own_redis.start)

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
