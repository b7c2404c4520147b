"""A federated run through the real topology: sites, their Envoys, the gateway, the Envoy before SuperLink."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from aegis_client import AegisApiError, Client, TrainingRun
from stack_support import Stack, start_stack, stop_stack

pytestmark = [pytest.mark.long, pytest.mark.training]
pytest.importorskip("torch", reason="training needs torch")
PATIENCE_S = 420.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start_stack(tmp_path_factory.mktemp("training") / "state", nodes=2)
    yield running
    stop_stack(running)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


def _ended(client: Client, name: str) -> TrainingRun:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            run = client.training.get(name)
        except AegisApiError:
            run = None  # the coordinator is away; that is what some tests are about
        if run is not None and run.ended:
            return run
        time.sleep(1)
    pytest.fail(f"{name} has not ended within {PATIENCE_S:.0f} s")


def test_a_run_outlives_a_coordinator_that_is_killed_and_its_model_is_served(
    stack: Stack, client: Client
) -> None:
    # The default zone is dirty in the evening, and a run would wait for it.
    run = client.training.create("digits", rounds=2, min_nodes=2, model="digits", zone="demo-clean")
    seen = next(event for event in client.training.watch(run.name) if event.kind == "round")
    os.kill(stack.process("fl-coordinator")["pid"], signal.SIGKILL)
    done = _ended(client, run.name)

    assert seen.round is not None
    assert 1 == seen.round.number
    assert done.succeeded, done.state_message
    assert [1, 2] == [report.number for report in done.round_reports]
    assert all(report.gate is not None and report.gate.source for report in done.round_reports)
    result = client.tools.run("digits", {"input": [[0.0] * 64]})
    assert done.model_version == result.model_version


def test_a_run_waits_for_a_cleaner_grid_and_says_so_until_it_is_cancelled(client: Client) -> None:
    run = client.training.create("digits", rounds=1, min_nodes=2, max_intensity=1.0)
    for event in client.training.watch(run.name, timeout=PATIENCE_S):
        if event.run is not None and event.run.state == "WAITING_FOR_GRID":
            client.training.cancel(run.name)
            break
    done = _ended(client, run.name)

    assert "CANCELLED" == done.state
    assert () == tuple(done.round_reports)


def test_the_same_request_id_starts_one_run_only(client: Client) -> None:
    key = "3f0c7b1e-0f4f-4a5e-9a55-0a6f6a1f6b11"
    first = client.training.create("digits", rounds=1, min_nodes=50, request_id=key)
    second = client.training.create("digits", rounds=1, min_nodes=50, request_id=key)
    client.training.cancel(first.name)

    assert first.name == second.name
    assert "CANCELLED" == _ended(client, first.name).state


@pytest.mark.parametrize("account", ["sdk", "admin"])
@pytest.mark.parametrize(
    "path", ["/v1/fleet/pull-messages", "/v1/control/list-runs", "/v1/runtime/acquire-task"]
)
def test_flowers_own_apis_are_closed_to_everybody_but_sites(stack: Stack, account: str, path: str) -> None:
    with stack.machines_http(account) as http:
        status = http.post(path, content=b"").status_code

    assert status in {403, 404}


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/runtime/acquire-task", "/health"])
def test_a_site_reaches_the_fleet_api_only(stack: Stack, path: str) -> None:
    with stack.machines_http("fl-node-site-1") as http:
        status = http.post(path, content=b"").status_code

    assert status in {403, 404}
