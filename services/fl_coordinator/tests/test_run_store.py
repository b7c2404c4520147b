"""Runs, history and nodes survive, tenants do not meet."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aegis_fl_coordinator.adapters.run_store import SqliteRunStore
from aegis_fl_coordinator.domain.errors import (
    NodeExists,
    RequestIdReused,
    UnknownNode,
    UnknownSchema,
    UnknownTrainingRun,
)
from aegis_fl_coordinator.domain.gate import CarbonPolicy
from aegis_fl_coordinator.domain.nodes import Node
from aegis_fl_coordinator.domain.rounds import (
    GateDecision,
    NodeFailure,
    NodeOutcome,
    ResultState,
    RoundReport,
)
from aegis_fl_coordinator.domain.run import RunSpec, State, TrainingRun

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SPEC = RunSpec(
    "digits",
    3,
    2,
    CarbonPolicy("zones/GB", 120.5, timedelta(minutes=3)),
    {"rate": 0.5, "epochs": 2, "fast": True, "name": "x"},
    "models/digits",
)


def make_run(run_id: str = "r1", tenant: str = "default") -> TrainingRun:
    traceparent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    return TrainingRun(
        tenant, run_id, SPEC, State.PENDING, "accepted", "alice", "{}", traceparent, "c" * 64, "", NOW
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteRunStore]:
    found = SqliteRunStore(path, clock=lambda: NOW)
    yield found
    found.close()


def create(store: SqliteRunStore, run: TrainingRun) -> TrainingRun:
    return store.create_run(run, request_id="", asked="")


def test_a_run_comes_back_as_it_was_stored_after_a_restart(store: SqliteRunStore, path: Path) -> None:
    create(store, make_run())
    gate = GateDecision(False, "MAX_WAIT", 400.0, None, "uk", timedelta(seconds=61.5))
    report = RoundReport(
        1, {"accuracy": 0.9}, 2, (NodeFailure("nodes/site-3", "gone"),), timedelta(seconds=9), "d" * 64
    )
    outcomes = (
        NodeOutcome("nodes/site-1", ResultState.USED, "", 10, 20, timedelta(seconds=3)),
        NodeOutcome("nodes/site-3", ResultState.FAILED, "gone", 10),
    )

    def change(run: TrainingRun) -> TrainingRun:
        opened = run.with_open_gate(1, gate, now=NOW)
        done = opened.with_round(replace(report, outcomes=outcomes), now=NOW)
        return replace(done, engine_run=2**64 - 1, waiting_since=NOW)

    stored = store.update_run("r1", change)
    store.close()
    again = SqliteRunStore(path, clock=lambda: NOW)

    whole = stored.rounds
    bare = replace(stored, rounds=tuple(replace(one, outcomes=()) for one in whole))
    assert (whole[0].outcomes, whole[0].started, whole[0].ended) == (outcomes, NOW, NOW)
    assert again.get_run("default", "r1") == bare
    assert again.active_runs() == [bare]
    assert tuple(again.rounds("r1", after=0, most=10)) == whole
    assert again.rounds("r1", after=1, most=10) == []
    again.close()


def test_a_tenant_sees_its_own_runs_only(store: SqliteRunStore) -> None:
    create(store, make_run("r1", "one"))

    assert store.list_runs("two") == []
    with pytest.raises(UnknownTrainingRun):
        store.get_run("two", "r1")


def test_runs_are_listed_newest_first(store: SqliteRunStore) -> None:
    for run_id in ("20261125-1", "20261127-1", "20261126-1"):
        create(store, make_run(run_id))

    assert [run.run_id for run in store.list_runs("default")] == ["20261127-1", "20261126-1", "20261125-1"]


def test_a_request_id_gives_the_same_run_again(store: SqliteRunStore) -> None:
    first = store.create_run(make_run("r1"), request_id="id", asked="a")

    assert store.create_run(make_run("r2"), request_id="id", asked="a") == first
    assert len(store.list_runs("default")) == 1


def test_a_request_id_with_another_run_is_refused(store: SqliteRunStore) -> None:
    store.create_run(make_run("r1"), request_id="id", asked="a")

    with pytest.raises(RequestIdReused):
        store.create_run(make_run("r2"), request_id="id", asked="b")


def test_request_ids_of_two_tenants_do_not_meet(store: SqliteRunStore) -> None:
    store.create_run(make_run("r1", "one"), request_id="id", asked="a")

    assert store.create_run(make_run("r2", "two"), request_id="id", asked="b").run_id == "r2"


def test_a_change_that_fails_leaves_nothing_behind(store: SqliteRunStore) -> None:
    run = create(store, make_run())

    def fail(run: TrainingRun) -> TrainingRun:
        raise ValueError(run.run_id)

    with pytest.raises(ValueError, match="r1"):
        store.update_run("r1", fail)

    assert store.get_run("default", "r1") == run


def test_the_history_has_what_a_watcher_can_see_in_order(store: SqliteRunStore) -> None:
    create(store, make_run())
    store.update_run("r1", lambda run: run.moved(State.RUNNING, "round 1 of 3", now=NOW))
    store.update_run("r1", lambda run: replace(run, engine_run=7))
    store.update_run("r1", lambda run: run.with_round(RoundReport(1), now=NOW))
    store.update_run("r1", lambda run: run.moved(State.FAILED, "boom", now=NOW))

    found = [(e.seq, e.run.state if e.run else None, e.report) for e in store.events("r1", after=0)]

    assert found == [
        (1, State.PENDING, None),
        (2, State.RUNNING, None),
        (3, None, RoundReport(1, ended=NOW)),
        (4, State.FAILED, None),
    ]
    assert [event.seq for event in store.events("r1", after=3)] == [4]
    assert store.last_event("r1").seq == 4


def test_a_run_that_ended_is_not_active(store: SqliteRunStore) -> None:
    create(store, make_run())
    store.update_run("r1", lambda run: run.moved(State.FAILED, "boom", now=NOW))

    assert store.active_runs() == []


def make_node(node_id: str = "site-1", key: str = "k1", tenant: str = "default") -> Node:
    return Node(tenant, node_id, key, "zones/GB", 2**63 + 5, NOW)


def test_a_node_comes_back_as_it_was_stored(store: SqliteRunStore) -> None:
    node = store.add_node(make_node())

    assert store.get_node("default", "site-1") == node
    assert store.add_node(make_node()) == node
    assert store.list_nodes("default") == [node]


@pytest.mark.parametrize(
    "other", [make_node("site-2"), make_node(key="k2"), make_node(tenant="other"), make_node("site-3", "k3")]
)
def test_a_name_and_a_key_belong_to_one_node(store: SqliteRunStore, other: Node) -> None:
    store.add_node(make_node())
    store.add_node(make_node("site-3", "k9"))

    with pytest.raises(NodeExists):
        store.add_node(other)


def test_a_removed_node_is_unknown(store: SqliteRunStore) -> None:
    store.add_node(make_node())
    store.remove_node("default", "site-1")

    with pytest.raises(UnknownNode):
        store.get_node("default", "site-1")


def test_a_file_of_another_schema_version_is_refused_by_number(store: SqliteRunStore, path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(UnknownSchema, match="has schema version 99; this coordinator knows 1"):
        SqliteRunStore(path, clock=lambda: NOW)


def test_a_file_of_the_version_before_is_read_and_written_on(store: SqliteRunStore, path: Path) -> None:
    create(store, make_run())
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
        db.execute("DROP TABLE usages")
        db.execute(
            "UPDATE runs SET schema_version = 1, record = json_remove(record, '$.pause', '$.given_up')"
        )
    db.close()

    later = SqliteRunStore(path, clock=lambda: NOW)
    later.update_run("r1", lambda run: run.pausing("alice", immediate=False, now=NOW))

    assert later.get_run("default", "r1").state is State.PAUSING
    later.close()


def test_a_record_of_another_schema_version_is_refused_by_number(store: SqliteRunStore, path: Path) -> None:
    create(store, make_run())
    with sqlite3.connect(path) as db:
        db.execute("UPDATE runs SET schema_version = 7")
    db.close()

    with pytest.raises(UnknownSchema, match="schema version 7"):
        store.get_run("default", "r1")


def test_only_its_user_can_read_the_file(store: SqliteRunStore, path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0
