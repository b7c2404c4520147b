"""Reservations through the gateway, where a day of the replayed grid passes in a minute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stack_support import Stack, start_stack, stop_stack

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, with a fast replay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEGIS_CARBON_REPLAY_SPEED", "1440")
        patch.setenv("AEGIS_CARBON_CAPACITY_POOLS", '{"gpus": 1}')
        running = start_stack(tmp_path_factory.mktemp("fast") / "state", nodes=0)
    yield running
    stop_stack(running)


def wanted(seconds: float, within: float, **fields: Any) -> dict[str, Any]:
    deadline = (datetime.now(UTC) + timedelta(seconds=within)).isoformat()
    job = {"zones": ["zones/demo-day"], "duration": f"{seconds}s", "deadline": deadline, "interruption": {}}
    return {"reservation": {"job": job, **fields}}


def test_work_is_told_to_start_stop_and_go_on_and_is_not_late(fast: Stack) -> None:
    with fast.http(fast.token("operator")) as http:
        asked = {**wanted(12, 55), "request_id": "one"}
        made = http.post("/v1/reservations", json=asked).json()["reservation"]
        again = http.post("/v1/reservations", json=asked).json()["reservation"]
        signals: list[tuple[str, str]] = []
        end: dict[str, Any] | None = None
        with http.stream("GET", f"/v1/{made['name']}:watch", timeout=60) as stream:
            for line in stream.iter_lines():
                event = json.loads(line)
                # What was planned to begin at once has its signal from the start.
                told = event.get("signal") or event.get("reservation", {}).get("signal")
                if told and (told["kind"], told["token"]) not in signals:
                    signals.append((told["kind"], told["token"]))
                end = event.get("end", end)
        listed = http.get("/v1/reservations", params={"states": "STATE_FINISHED"}).json()["reservations"]

    assert made["name"] == again["name"]
    assert made["plan"]["saving"] > 0
    assert end is not None
    assert ("STATE_FINISHED", True) == (end["state"], end["endAssumed"])
    assert end["endTime"] <= made["job"]["deadline"]
    assert ("KIND_START", "1") == signals[0]
    assert [str(number + 1) for number in range(len(signals))] == [token for _, token in signals]
    assert [made["name"]] == [item["name"] for item in listed]


def test_a_full_pool_says_when_a_job_could_end(fast: Stack) -> None:
    with fast.http(fast.token("operator")) as http:
        first = http.post("/v1/reservations", json=wanted(20, 30, capacity_pool="gpus"))
        full = http.post("/v1/reservations", json=wanted(20, 30, capacity_pool="gpus"))
        error = full.json()["details"][0]
        later = wanted(20, 30, capacity_pool="gpus")
        later["reservation"]["job"]["deadline"] = error["metadata"]["deadline"]
        fits = http.post("/v1/reservations", json=later)
        viewer = http.post(
            "/v1/reservations",
            json=wanted(1, 30),
            headers={"authorization": f"Bearer {fast.token('viewer')}"},
        )

    assert 200 == first.status_code
    assert (400, "INFEASIBLE_JOB") == (full.status_code, error["reason"])
    assert 200 == fits.status_code
    assert 403 == viewer.status_code
