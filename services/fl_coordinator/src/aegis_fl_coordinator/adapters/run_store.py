"""Runs, their history and the nodes in one SQLite file on the coordinator's volume."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter

from aegis_common.clock import Clock
from aegis_fl_coordinator.adapters import usage_rows
from aegis_fl_coordinator.domain.errors import (
    NodeExists,
    RequestIdReused,
    UnknownNode,
    UnknownSchema,
    UnknownTrainingRun,
)
from aegis_fl_coordinator.domain.nodes import Node
from aegis_fl_coordinator.domain.ports import Event
from aegis_fl_coordinator.domain.rounds import Energy, RoundReport
from aegis_fl_coordinator.domain.run import TrainingRun
from aegis_fl_coordinator.domain.usage import RoundUsage

SCHEMA_VERSION: Final = 3
_READABLE: Final = frozenset({1, 2, 3})
_BUSY_S: Final = 10.0
_RUN: Final = TypeAdapter(TrainingRun)
_ROUND: Final = TypeAdapter(RoundReport)
_NODE: Final = TypeAdapter(Node)
T = TypeVar("T")

_SCHEMA: Final = """
CREATE TABLE runs (
  tenant TEXT NOT NULL, run_id TEXT NOT NULL UNIQUE, active INTEGER NOT NULL, schema_version INTEGER NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (tenant, run_id)) WITHOUT ROWID;
CREATE INDEX runs_active ON runs (active) WHERE active;
CREATE TABLE requests (
  tenant TEXT NOT NULL, request_id TEXT NOT NULL, asked TEXT NOT NULL, run_id TEXT NOT NULL,
  PRIMARY KEY (tenant, request_id)) WITHOUT ROWID;
CREATE TABLE rounds (
  tenant TEXT NOT NULL, run_id TEXT NOT NULL, number INTEGER NOT NULL, schema_version INTEGER NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (tenant, run_id, number)) WITHOUT ROWID;
CREATE TABLE events (
  tenant TEXT NOT NULL, run_id TEXT NOT NULL, seq INTEGER NOT NULL, time TEXT NOT NULL,
  is_round INTEGER NOT NULL, schema_version INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (tenant, run_id, seq)) WITHOUT ROWID;
CREATE TABLE nodes (
  tenant TEXT NOT NULL, node_id TEXT NOT NULL, public_key_pem TEXT NOT NULL UNIQUE,
  schema_version INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (tenant, node_id)) WITHOUT ROWID;
"""


class SqliteRunStore:
    """A `RunStore`. One process uses the file; each method is one short transaction, durable when it returns.

    Args:
        path: The file; made if absent, its folder exists.
        clock: Time of events.

    Raises:
        UnknownSchema: The file is of a schema version that this reader does not know.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._clock = clock
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._migrate(path)

    def close(self) -> None:
        self._db.close()

    def create_run(self, run: TrainingRun, *, request_id: str, asked: str) -> TrainingRun:
        with self._transaction():
            if request_id:
                query = "SELECT asked, run_id FROM requests WHERE tenant = ? AND request_id = ?"
                before = self._db.execute(query, (run.tenant, request_id)).fetchone()
                if before is not None:
                    return self._repeated(run.tenant, request_id, asked, before)
                values = (run.tenant, request_id, asked, run.run_id)
                self._db.execute("INSERT INTO requests VALUES (?, ?, ?, ?)", values)
            row = (run.tenant, run.run_id, not run.ended, SCHEMA_VERSION, _run_record(run))
            self._db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
            self._add_event(run)
        return run

    def _repeated(self, tenant: str, request_id: str, asked: str, before: sqlite3.Row) -> TrainingRun:
        if before["asked"] != asked:
            raise RequestIdReused(
                f"request_id {request_id!r} came with another run before; use a new one",
                request_id=request_id,
            )
        return self.get_run(tenant, before["run_id"])

    def get_run(self, tenant: str, run_id: str) -> TrainingRun:
        """Return a run.

        Raises:
            UnknownTrainingRun: The tenant has none of that id.
        """
        query = "SELECT tenant, run_id, schema_version, record FROM runs WHERE tenant = ? AND run_id = ?"
        return self._one_run(query, (tenant, run_id), run_id)

    def find_run(self, run_id: str) -> TrainingRun:
        """Return a run of whichever tenant.

        Raises:
            UnknownTrainingRun: There is none of that id.
        """
        query = "SELECT tenant, run_id, schema_version, record FROM runs WHERE run_id = ?"
        return self._one_run(query, (run_id,), run_id)

    def list_runs(self, tenant: str) -> list[TrainingRun]:
        """Return the tenant's runs, newest first."""
        query = (
            "SELECT tenant, run_id, schema_version, record FROM runs WHERE tenant = ? ORDER BY run_id DESC"
        )
        return [self._run(row) for row in self._db.execute(query, (tenant,))]

    def active_runs(self) -> list[TrainingRun]:
        """Return the runs of all tenants that have not ended, oldest first."""
        query = "SELECT tenant, run_id, schema_version, record FROM runs WHERE active ORDER BY run_id"
        return [self._run(row) for row in self._db.execute(query)]

    def update_run(
        self,
        run_id: str,
        change: Callable[[TrainingRun], TrainingRun],
        *,
        usages: Callable[[TrainingRun, RoundReport], Sequence[RoundUsage]] | None = None,
    ) -> TrainingRun:
        """Store what *change* makes of the run, with an event for what a watcher can see of it.

        Args:
            run_id: The part after `trainingRuns/`.
            change: Returns the run as it becomes.
            usages: Returns what a new round used; kept in the same transaction until the ledger has it.

        Raises:
            UnknownTrainingRun: There is none of that id.
        """
        with self._transaction():
            before = self.find_run(run_id)
            after = change(before)
            if after != before:
                values = (_run_record(after), SCHEMA_VERSION, not after.ended, after.tenant, run_id)
                query = "UPDATE runs SET record = ?, schema_version = ?, active = ? "
                self._db.execute(query + "WHERE tenant = ? AND run_id = ?", values)
                for report in after.rounds[len(before.rounds) :]:
                    self._add_round(after, report)
                    for usage in usages(after, report) if usages else ():
                        usage_rows.insert(self._db, usage, schema_version=SCHEMA_VERSION)
                if _visible(after) != _visible(before):
                    self._add_event(after)
        return after

    def expired_runs(self, now: datetime) -> list[TrainingRun]:
        rows = self._db.execute("SELECT schema_version, record FROM runs WHERE NOT active ORDER BY run_id")
        return [run for row in rows if (run := _read(_RUN, row)).expired(now)]

    def remove_run(self, run_id: str, *, now: datetime, also: Callable[[], None]) -> bool:
        with self._transaction():
            run = self.find_run(run_id)
            if not run.expired(now) or usage_rows.any_of(self._db, run.tenant, run_id):
                return False
            for table in ("events", "rounds", "requests", "runs"):
                query = f"DELETE FROM {table} WHERE tenant = ? AND run_id = ?"  # noqa: S608  # constants
                self._db.execute(query, (run.tenant, run_id))
            also()
        return True

    def events(self, run_id: str, *, after: int) -> list[Event]:
        """Return the run's events with a higher number than *after*, in order."""
        query = "SELECT * FROM events WHERE run_id = ? AND tenant = ? AND seq > ? ORDER BY seq"
        tenant = self.find_run(run_id).tenant
        return [_event(row) for row in self._db.execute(query, (run_id, tenant, after))]

    def unsent_usages(self, most: int) -> list[RoundUsage]:
        query = "SELECT schema_version, record FROM usages ORDER BY rowid LIMIT ?"
        return [_read(usage_rows.USAGE, row) for row in self._db.execute(query, (most,))]

    def settle_usage(self, usage: RoundUsage, energy: Energy | None) -> None:
        with self._transaction():
            usage_rows.settle(self._db, usage, energy)

    def rounds(self, run_id: str, *, after: int, most: int) -> list[RoundReport]:
        # Only the history has them whole: every look at a run reads the table of rounds.
        query = (
            "SELECT schema_version, record FROM events WHERE tenant = ? AND run_id = ? AND is_round "
            "AND json_extract(record, '$.number') > ? ORDER BY seq LIMIT ?"
        )
        rows = self._db.execute(query, (self.find_run(run_id).tenant, run_id, after, most))
        return [_read(_ROUND, row) for row in rows]

    def last_event(self, run_id: str) -> Event:
        """Return the newest event; every run has one."""
        tenant = self.find_run(run_id).tenant
        query = "SELECT * FROM events WHERE run_id = ? AND tenant = ? ORDER BY seq DESC LIMIT 1"
        return _event(self._db.execute(query, (run_id, tenant)).fetchone())

    def same_node(self, tenant: str, node_id: str, public_key_pem: str) -> Node | None:
        query = "SELECT * FROM nodes WHERE (tenant = ? AND node_id = ?) OR public_key_pem = ?"
        rows = self._db.execute(query, (tenant, node_id, public_key_pem)).fetchall()
        if not rows:
            return None
        row = rows[0]
        if len(rows) == 1 and (row["tenant"], row["node_id"], row["public_key_pem"]) == (
            tenant,
            node_id,
            public_key_pem,
        ):
            return _read(_NODE, row)
        raise NodeExists(
            f"the name nodes/{node_id} or the public key belongs to another node", name=f"nodes/{node_id}"
        )

    def add_node(self, node: Node) -> Node:
        with self._transaction():
            known = self.same_node(node.tenant, node.node_id, node.public_key_pem)
            if known is not None:
                return known
            record = _NODE.dump_json(node).decode()
            values = (node.tenant, node.node_id, node.public_key_pem, SCHEMA_VERSION, record)
            self._db.execute("INSERT INTO nodes VALUES (?, ?, ?, ?, ?)", values)
        return node

    def get_node(self, tenant: str, node_id: str) -> Node:
        """Return a node.

        Raises:
            UnknownNode: The tenant has none of that name.
        """
        query = "SELECT schema_version, record FROM nodes WHERE tenant = ? AND node_id = ?"
        row = self._db.execute(query, (tenant, node_id)).fetchone()
        if row is None:
            raise UnknownNode(f"there is no node nodes/{node_id}", name=f"nodes/{node_id}")
        return _read(_NODE, row)

    def list_nodes(self, tenant: str) -> list[Node]:
        """Return the tenant's nodes, ordered by name."""
        query = "SELECT schema_version, record FROM nodes WHERE tenant = ? ORDER BY node_id"
        return [_read(_NODE, row) for row in self._db.execute(query, (tenant,))]

    def remove_node(self, tenant: str, node_id: str) -> None:
        self._db.execute("DELETE FROM nodes WHERE tenant = ? AND node_id = ?", (tenant, node_id))

    def _one_run(self, query: str, values: tuple[str, ...], run_id: str) -> TrainingRun:
        row = self._db.execute(query, values).fetchone()
        if row is None:
            raise UnknownTrainingRun(
                f"there is no training run trainingRuns/{run_id}", name=f"trainingRuns/{run_id}"
            )
        return self._run(row)

    def _run(self, row: sqlite3.Row) -> TrainingRun:
        query = "SELECT schema_version, record FROM rounds WHERE tenant = ? AND run_id = ? ORDER BY number"
        rounds = self._db.execute(query, (row["tenant"], row["run_id"]))
        return replace(_read(_RUN, row), rounds=tuple(_read(_ROUND, one) for one in rounds))

    def _add_round(self, run: TrainingRun, report: RoundReport) -> None:
        record = _ROUND.dump_json(replace(report, outcomes=())).decode()
        row = (run.tenant, run.run_id, report.number, SCHEMA_VERSION, record)
        self._db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?)", row)
        self._add_event(run, report)

    def _add_event(self, run: TrainingRun, report: RoundReport | None = None) -> None:
        query = "SELECT COALESCE(MAX(seq), 0) + 1 FROM events WHERE tenant = ? AND run_id = ?"
        seq = self._db.execute(query, (run.tenant, run.run_id)).fetchone()[0]
        record = _run_record(run) if report is None else _ROUND.dump_json(report).decode()
        time = self._clock().astimezone(UTC).isoformat()
        row = (run.tenant, run.run_id, seq, time, report is not None, SCHEMA_VERSION, record)
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _migrate(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            script = f"BEGIN; {_SCHEMA} {usage_rows.SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            self._db.executescript(script)
        elif version == SCHEMA_VERSION:
            return
        elif version in _READABLE:
            script = f"BEGIN; {usage_rows.SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            self._db.executescript(script)
        else:
            self._db.close()
            raise UnknownSchema(
                f"{path} has schema version {version}; this coordinator knows 1 to {SCHEMA_VERSION}",
                schema_version=str(version),
            )


def _visible(run: TrainingRun) -> tuple[object, ...]:
    return run.state, run.message, run.model_version, run.pause and run.pause.since


def _read(adapter: TypeAdapter[T], row: sqlite3.Row) -> T:
    version = row["schema_version"]
    if version not in _READABLE:
        raise UnknownSchema(
            f"a stored record has schema version {version}; this coordinator knows 1 to {SCHEMA_VERSION}",
            schema_version=str(version),
        )
    return adapter.validate_json(row["record"])


def _event(row: sqlite3.Row) -> Event:
    time = datetime.fromisoformat(row["time"])
    if row["is_round"]:
        return Event(row["seq"], time, report=_read(_ROUND, row))
    return Event(row["seq"], time, run=_read(_RUN, row))


def _run_record(run: TrainingRun) -> str:
    """Return a run as stored; its rounds have a table of their own."""
    return _RUN.dump_json(replace(run, rounds=())).decode()
