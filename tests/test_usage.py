"""Calls and jobs reach the ledger by themselves, each job once, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from replica_support import until
from stack_support import Stack, start_stack, stop_stack

pytestmark = pytest.mark.long
JOBS = 30


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEGIS_AGENT_USAGE_INTERVAL", "0.2")
        running = start_stack(tmp_path_factory.mktemp("usage") / "state", nodes=0)
    yield running
    stop_stack(running)


def _units(http: httpx.Client, tenant: str) -> dict[tuple[Any, ...], float]:
    query = {"query.by": [f"DIMENSION_{name}" for name in ("TENANT", "TOOL", "KIND")]}
    answer = http.get("/v1/usages:report", params=query)
    if answer.status_code != 200:
        return {}
    rows = answer.json().get("rows", [])
    assert all(row["tenant"] == tenant and row["estimated"] for row in rows)
    return {(row["tool"], row["kind"]): row["units"] for row in rows}


def test_calls_appear_by_tool_in_their_tenants_report_alone(stack: Stack) -> None:
    tokens = {name: stack.token("operator", tenant=name) for name in ("red", "blue")}
    with stack.http(tokens["red"]) as red, stack.http(tokens["blue"]) as blue:
        for http, calls in ((red, 3), (blue, 2)):
            for _ in range(calls):
                body = {"payload": [{"json": {"text": "hi"}}]}
                assert 200 == http.post("/v1/tools/echo:dispatch", json=body).status_code

        until(lambda: _units(red, "red") == {("echo", "USAGE_KIND_CALL"): 3}, "red's calls are there")
        until(lambda: _units(blue, "blue") == {("echo", "USAGE_KIND_CALL"): 2}, "blue's calls are there")


@pytest.mark.parametrize("victim", ["carbon", "agent"])
def test_each_job_counts_once_whatever_is_killed_while_jobs_end(stack: Stack, victim: str) -> None:
    body = {"job": {"tool": "tools/echo", "payload": [{"json": {"text": "hi"}}]}}
    with stack.http(stack.token("operator", tenant=victim)) as http:
        for number in range(JOBS):
            assert 200 == http.post("/v1/jobs", json=body).status_code
            if number == JOBS // 2:
                os.kill(stack.process(victim)["pid"], signal.SIGKILL)
                until(lambda: http.get("/v1/tools").status_code == 200, "the agent answers")

        def ended() -> bool:
            jobs = http.get("/v1/jobs", params={"page_size": 100}).json()["jobs"]
            return len(jobs) == JOBS and {job["state"] for job in jobs} == {"STATE_COMPLETED"}

        until(ended, "all jobs have ended")
        counted = {("echo", "USAGE_KIND_JOB"): JOBS}
        until(lambda: _units(http, victim) == counted, "each job is in the report")
