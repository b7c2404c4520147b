"""Runs go when their time is over, with all that is theirs, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_fl_coordinator.adapters.run_folders import VolumeFolders
from aegis_fl_coordinator.adapters.run_store import SqliteRunStore
from aegis_fl_coordinator.domain.errors import UnknownTrainingRun
from aegis_fl_coordinator.domain.retention import Retention
from aegis_fl_coordinator.domain.rounds import RoundReport
from aegis_fl_coordinator.domain.run import RunSpec, State, TrainingRun
from aegis_fl_coordinator.domain.usage import RoundUsage
from aegis_fl_coordinator.runfile import CoordinatorAddress
from aegis_fl_coordinator.testing.calls import create, until_state
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.processes import Coordinate

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
Run = pb.TrainingRun


class World:
    """Store, folders and sweep on one volume, at a time that the test sets."""

    def __init__(self, volume: Path) -> None:
        self.now = NOW
        self.runs = volume / "runs"
        self.store = SqliteRunStore(volume / "runs.db", clock=lambda: self.now)
        address = CoordinatorAddress("", "", "", "", "")
        self.folders = VolumeFolders(self.runs, coordinator=lambda: address)
        self.retention = Retention(store=self.store, folders=self.folders, clock=lambda: self.now)

    def ended(self, run_id: str, retention: timedelta | None = DAY) -> TrainingRun:
        """Store a run with one round and a checkpoint that fails now."""
        spec = RunSpec("digits", 3, 2, retention=retention)
        run = TrainingRun("t", run_id, spec, State.PENDING, "", "a", "{}", TRACE, "c" * 64, "", NOW)
        self.store.create_run(run, request_id=f"id of {run_id}", asked="same")
        self.folders.prepare(run, token="secret", nodes={})
        report = RoundReport(1, {}, 2, (), timedelta(seconds=1), "d" * 64)

        def fail(run: TrainingRun) -> TrainingRun:
            return run.with_round(report, now=NOW).moved(State.FAILED, "it failed", now=NOW)

        return self.store.update_run(run_id, fail)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.store.close()


async def test_a_run_goes_with_all_that_is_its_own_when_its_time_is_over(world: World) -> None:
    world.ended("short")
    world.ended("long", 2 * DAY)
    world.ended("old", None)
    world.now = NOW + DAY - timedelta(seconds=1)
    await world.retention.sweep()
    before = {run.run_id for run in world.store.list_runs("t")}
    world.now = NOW + DAY

    await world.retention.sweep()

    assert before == {"short", "long", "old"}
    assert {run.run_id for run in world.store.list_runs("t")} == {"long", "old"}
    assert {folder.name for folder in world.runs.iterdir()} == {"long", "old"}
    with pytest.raises(UnknownTrainingRun):
        world.store.events("short", after=0)
    # Its id is free again, and nothing of the old run comes back with it.
    again = world.ended("short")
    assert [event.seq for event in world.store.events("short", after=0)] == [1, 2, 3]
    assert len(again.rounds) == 1


async def test_a_run_that_was_resumed_stays(world: World) -> None:
    world.ended("r")
    world.now = NOW + DAY
    (expired,) = world.store.expired_runs(world.now)
    world.store.update_run("r", lambda run: run.resumed("a"))

    assert world.store.remove_run("r", now=world.now, also=lambda: world.folders.discard(expired)) is False
    await world.retention.sweep()

    assert world.store.get_run("t", "r").state is State.PENDING
    assert (world.runs / "r" / "run.json").exists()


async def test_a_run_waits_until_the_ledger_has_heard_all_of_it(world: World) -> None:
    run = world.ended("r")
    usage = RoundUsage("u", "t", "r", 2, NOW, NOW, "")
    world.store.update_run(
        "r",
        lambda run: replace(run, rounds=(*run.rounds, replace(run.rounds[0], number=2))),
        usages=lambda _run, _report: [usage],
    )
    world.now = NOW + DAY
    await world.retention.sweep()
    kept = world.store.get_run("t", "r")
    world.store.settle_usage(usage, None)

    await world.retention.sweep()

    assert kept.name == run.name
    assert world.store.list_runs("t") == []


async def test_a_folder_that_cannot_be_put_aside_keeps_its_run(world: World) -> None:
    world.ended("r")
    world.now = NOW + DAY

    def fail() -> None:
        raise OSError("read-only file system")

    with pytest.raises(OSError, match="read-only"):
        world.store.remove_run("r", now=world.now, also=fail)

    assert len(world.store.get_run("t", "r").rounds) == 1


async def test_a_run_says_when_it_goes(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine(), run_retention=3600) as coordinator:
        sdk = await coordinator.as_account("sdk")
        runs = []
        cases: list[dict[str, Any]] = [{}, {"retention": {"seconds": 86400}}]
        for asked in cases:
            run = await create(sdk, **asked)
            assert not run.HasField("expire_time")
            await sdk.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
            runs.append(await until_state(sdk, run.name, Run.STATE_CANCELLED))

    kept = [run.expire_time.ToDatetime() - run.end_time.ToDatetime() for run in runs]
    assert kept == [timedelta(hours=1), DAY]
