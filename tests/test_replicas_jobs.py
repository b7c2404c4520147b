"""Durable jobs and tasks of two replicas: what becomes of them when one is killed, and who may stop them."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aegis_client import Client, Job
from replica_load import mcp
from replica_support import Agent, Replicas, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
SECONDS = 2.0
COUNT = 12


def starts(notes: Path) -> list[tuple[str, int]]:
    """Return key and process of each start of a tool."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def create(client: Client, notes: Path, kind: str, number: int) -> Job:
    payload = {"file": str(notes), "seconds": SECONDS, "key": f"{kind}-{number}"}
    return client.jobs.create(f"note_{kind}", payload)


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_replica_loses_no_job_and_runs_none_twice_that_must_not(
    replicas: Replicas, tmp_path: Path, number: int
) -> None:
    notes, victim = tmp_path / "starts", replicas.agents[number]
    with replicas.client() as client, ThreadPoolExecutor(2 * COUNT) as threads:
        jobs = [create(client, notes, kind, number) for number in range(COUNT) for kind in ("once", "again")]
        watched = [threads.submit(client.jobs.wait, job.name) for job in jobs]
        until(lambda: _running(notes, victim) == {"once", "again"}, "the victim runs jobs of both kinds")
        pid = victim.pid
        with replicas.without(victim):
            ended = [future.result() for future in watched]

    begun = starts(notes)
    times = Counter(key for key, _ in begun)
    once, again = ended[::2], ended[1::2]
    print(f"lost {sum(not job.succeeded for job in once)}, run again {sum(n > 1 for n in times.values())}")
    assert [True] * COUNT == [job.succeeded for job in again]
    assert {"WORKER_LOST"} == {job.error.reason for job in once if job.error is not None}
    assert {1} == {times[f"once-{index}"] for index in range(COUNT)}
    assert 2 == max(times.values())
    lost = {f"once-{index}" for index, job in enumerate(once) if not job.succeeded}
    assert lost <= {key for key, process in begun if process == pid}
    assert lost


def _running(notes: Path, victim: Agent) -> set[str]:
    """Return the kinds of jobs that the victim has begun so lately that they run for some time yet."""
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    since = time.monotonic_ns() - int(SECONDS / 2 * 1e9)
    return {key.split("-")[0] for key, pid, at in lines if int(pid) == victim.pid and int(at) > since}


def test_a_job_is_cancelled_at_the_replica_that_does_not_run_it(replicas: Replicas, tmp_path: Path) -> None:
    for round_ in range(2):
        begun, ended = tmp_path / f"begun-{round_}", tmp_path / f"ended-{round_}"
        with replicas.client() as client:
            job = client.jobs.create("watched", {"begun": str(begun), "ended": str(ended)})
            until(begun.exists, "the job runs")
            runner = client.jobs.explain(job.name).attempts[0].runner
            here = next(agent for agent in replicas.agents if runner.startswith(agent.name))
            with replicas.client(replicas.other(here)) as elsewhere:
                elsewhere.jobs.cancel(job.name)
            until(ended.exists, "the tool stops")

            assert "CANCELLED" == client.jobs.wait(job.name).state


@pytest.mark.parametrize("number", [0, 1])
def test_a_task_made_at_one_replica_ends_at_the_other(replicas: Replicas, number: int) -> None:
    here = replicas.agents[number]
    arguments = {"text": "hello", "seconds": 1.0}
    with replicas.http(here) as http, replicas.http(replicas.other(here)) as other, replicas.http() as people:
        task = mcp(http, "tools/call", name="long_shout", arguments=arguments)["taskId"]
        assert "working" == mcp(other, "tasks/get", taskId=task)["status"]
        with replicas.without(here):
            until(lambda: mcp(people, "tasks/get", taskId=task)["status"] == "completed", "the task ends")
            found = mcp(people, "tasks/get", taskId=task)

    assert "HELLO" == found["result"]["content"][0]["text"]
