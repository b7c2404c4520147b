"""Jobs through both doors of a whole stack, and what becomes of them when parts of it are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from aegis_client import Client, Job
from stack_support import Stack, start_stack, stop_stack

pytestmark = pytest.mark.long
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start_stack(tmp_path_factory.mktemp("jobs") / "state", nodes=0)
    yield running
    stop_stack(running)


def _running(client: Client, name: str) -> Job:
    end = time.monotonic() + PATIENCE_S
    while (job := client.jobs.get(name)).phase != "RUNNING":
        if time.monotonic() > end:
            pytest.fail(f"{name} does not run: {job.state_message}")
        time.sleep(0.05)
    return job


def test_a_job_over_http_is_made_followed_and_listed(stack: Stack) -> None:
    body = {
        "job": {"tool": "tools/echo", "payload": [{"json": {"text": "hi"}}], "labels": {"door": "people"}}
    }
    with stack.http(stack.token("operator")) as http:
        made = http.post("/v1/jobs", json=body)
        name = made.json()["job"]["name"]
        lines = http.get(f"/v1/{name}:watch").text.strip().splitlines()
        listed = http.get(f"/v1/jobs?filter={quote('labels.door = people')}").json()
        plus = http.get("/v1/jobs", params={"filter": "labels.door = people"})
        told = http.get(f"/v1/{name}:explain").json()
        refused = http.post(f"/v1/{name}:retry", json={})

    assert made.status_code == 200, made.text
    last = json.loads(lines[-1])
    assert last["end"]["state"] == "STATE_COMPLETED"
    assert last["end"]["result"][0]["text"] == "hi"
    assert [job["name"] for job in listed["jobs"]] == [name]
    assert plus.json()["details"][0]["reason"] == "INVALID_FILTER"
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["OUTCOME_SUCCEEDED"]
    assert refused.json()["details"][0]["reason"] == "JOB_NOT_RETRYABLE"


def test_a_job_that_waits_for_the_grid_starts_although_carbon_is_dead(stack: Stack) -> None:
    with stack.client() as client:
        job = client.jobs.create("echo", {"text": "hi"}, max_intensity=1, max_wait=4)
        os.kill(stack.process("carbon")["pid"], signal.SIGKILL)
        done = client.jobs.wait(job.name, timeout=PATIENCE_S)

    assert (job.phase, job.wait_reason) == ("DEFERRED", "CARBON")
    assert done.succeeded
    assert done.start_time is not None
    assert job.latest_start is not None
    assert done.start_time >= job.latest_start


def test_a_running_job_is_cancelled_and_its_process_ends(stack: Stack) -> None:
    with stack.client() as client:
        job = client.jobs.create("spin", tool_timeout=500)
        _running(client, job.name)
        client.jobs.cancel(job.name)
        done = client.jobs.wait(job.name, timeout=PATIENCE_S)

    assert done.state == "CANCELLED"


@pytest.mark.parametrize("victim", ["agent", "redis-jobs"])
def test_jobs_outlive_a_kill_and_a_watch_goes_on_unseen(stack: Stack, victim: str) -> None:
    with stack.client() as client:
        jobs = [client.jobs.create("echo", {"text": str(number)}) for number in range(20)]
        lost = client.jobs.create("spin", tool_timeout=8)
        _running(client, lost.name)
        runner, _, _ = client.jobs.explain(lost.name).attempts[0].runner.rpartition("-")
        os.kill(stack.process(runner if victim == "agent" else victim)["pid"], signal.SIGKILL)
        values = [client.jobs.wait(job.name, timeout=PATIENCE_S).value for job in jobs]
        ended = client.jobs.wait(lost.name, timeout=PATIENCE_S)

    assert values == [str(number) for number in range(20)]
    assert ended.error is not None
    assert ended.error.reason == ("WORKER_LOST" if victim == "agent" else "TOOL_TIMEOUT")
    assert ended.attempt == 1
