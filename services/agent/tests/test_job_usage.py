"""What a job used is noted in the step that ends its attempt, and reaches the ledger once; on a Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from services.agent.tests.job_stores import BOUNDS, KEEP, Clock, begin, kept, taken

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs import usage as notes
from aegis_agent.adapters.jobs.connection import Connection, connect
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.adapters.jobs.usage import Accounts
from aegis_agent.adapters.jobs.usage_post import JobUsagePost
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.job import CarbonPolicy, Job
from aegis_agent.domain.jobs.steps import metered
from aegis_agent.domain.usage import Usage
from aegis_common.ledger import LedgerAway
from aegis_common.testing.redis import redis_server

USAGE = Usage(2.5, 1 << 30)


class Ledger:
    """Keeps usages by id; may lose its answers."""

    def __init__(self) -> None:
        self.lose = False
        self.calls = 0
        self.entries: dict[tuple[str, str], pb.Usage] = {}

    async def record(self, tenant: str, usages: Sequence[pb.Usage]) -> list[str]:
        self.calls += 1
        for item in usages:
            before = self.entries.setdefault((tenant, item.id), item)
            assert before == item  # else the ledger would refuse it
        if self.lose:
            raise LedgerAway
        return [""] * len(usages)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[RedisJobStore]:
    with redis_server(tmp_path) as url:
        async with connect(url) as client:
            connection = Connection(client)
            await connection.check(strict=False)
            yield RedisJobStore(connection, bounds=BOUNDS, accounts=Accounts("zones/DE"))


async def done(store: RedisJobStore, clock: Clock, **spec: Any) -> Job:
    job = await kept(store, clock, **spec)
    if spec:  # it waits for its grid: that is over now
        await store.update(job.ref, machine.queued)
    entry = (await taken(store, "r", 1))[0]
    job = await begin(store, job, entry, "r")

    def change(now: Job) -> Job:
        end = now.created + timedelta(seconds=36)
        ended = machine.completed(now, 1, model_version="", warnings=(), keep=KEEP, now=end)
        return metered(ended, 1, USAGE)

    await store.update(job.ref, change, result=b"out")
    return job


async def waiting(store: RedisJobStore) -> int:
    return int(await store.connection.run(lambda client: client.xlen(keys.USAGE)))


async def test_the_end_of_an_attempt_and_its_usage_are_one_step(store: RedisJobStore) -> None:
    job, ledger = await done(store, Clock()), Ledger()

    assert 1 == await waiting(store)
    assert USAGE == (await store.load(job.ref)).attempts[-1].usage

    await JobUsagePost(store, ledger).send()

    used = ledger.entries["red", f"job-{job.job_id}-1"]
    assert (pb.USAGE_KIND_JOB, 2.5, "zones/DE", "t") == (used.kind, used.cpu_seconds, used.zone, used.tool)
    assert used.memory_gib_hours == pytest.approx(0.01)
    assert not used.HasField("run_now_start_time")
    assert 0 == await waiting(store)


async def test_what_was_sent_when_the_sender_died_is_sent_again_and_counts_once(
    store: RedisJobStore,
) -> None:
    clock, ledger = Clock(), Ledger()
    for _ in range(3):
        await done(store, clock)
    ledger.lose = True
    await JobUsagePost(store, ledger).send()
    ledger.lose = False

    await JobUsagePost(store, ledger).send()

    assert (2, 3, 0) == (ledger.calls, len(ledger.entries), await waiting(store))


async def test_a_job_that_waited_for_its_grid_names_when_it_could_have_begun(store: RedisJobStore) -> None:
    clock, ledger = Clock(), Ledger()
    job = await done(store, clock, carbon=CarbonPolicy())

    await JobUsagePost(store, ledger).send()

    used = ledger.entries["red", f"job-{job.job_id}-1"]
    assert job.created == used.run_now_start_time.ToDatetime(job.created.tzinfo)


async def test_a_lost_attempt_is_not_counted_and_its_successor_is(store: RedisJobStore) -> None:
    clock = Clock()
    job = await kept(store, clock)
    await begin(store, job, (await taken(store, "r", 1))[0], "r")

    await store.update(job.ref, lambda now: machine.lost(now, keep=KEEP, now=clock.now))

    assert 0 == await waiting(store)


async def test_a_full_outbox_drops_and_counts(store: RedisJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MOST_NOTES", 1)
    clock = Clock()

    for _ in range(2):
        await done(store, clock)

    assert 1 == await waiting(store)
    assert b"1" == await store.connection.run(lambda client: client.get(keys.USAGE_DROPPED))
