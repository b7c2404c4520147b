"""The rows of what rounds used: kept beside the rounds until the ledger has them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import Final

from pydantic import TypeAdapter

from aegis_fl_coordinator.domain.rounds import Energy, RoundReport
from aegis_fl_coordinator.domain.usage import RoundUsage

SCHEMA: Final = """
CREATE TABLE usages (
  usage_id TEXT NOT NULL, tenant TEXT NOT NULL, schema_version INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (tenant, usage_id));
"""
USAGE: Final = TypeAdapter(RoundUsage)
_ROUND: Final = TypeAdapter(RoundReport)


def insert(db: sqlite3.Connection, usage: RoundUsage, *, schema_version: int) -> None:
    """Keep a usage; one that is there already stays."""
    row = (usage.usage_id, usage.tenant, schema_version, USAGE.dump_json(usage).decode())
    db.execute("INSERT OR IGNORE INTO usages VALUES (?, ?, ?, ?)", row)


def any_of(db: sqlite3.Connection, tenant: str, run_id: str) -> bool:
    """Return whether a run has usage that the ledger has not heard of."""
    query = "SELECT 1 FROM usages WHERE tenant = ? AND json_extract(record, '$.run_id') = ? LIMIT 1"
    return db.execute(query, (tenant, run_id)).fetchone() is not None


def settle(db: sqlite3.Connection, usage: RoundUsage, energy: Energy | None) -> None:
    """Remove a usage and add its energy to its round; nothing happens the second time."""
    key = (usage.tenant, usage.usage_id)
    gone = db.execute("DELETE FROM usages WHERE tenant = ? AND usage_id = ?", key).rowcount
    if not gone or energy is None:
        return
    where = "tenant = ? AND run_id = ? AND number = ?"
    _add(db, "rounds", where, (usage.tenant, usage.run_id, usage.number), energy)
    where = "tenant = ? AND run_id = ? AND is_round AND json_extract(record, '$.number') = ?"
    _add(db, "events", where, (usage.tenant, usage.run_id, usage.number), energy)


def _add(
    db: sqlite3.Connection, table: str, where: str, values: tuple[str, str, int], energy: Energy
) -> None:
    row = db.execute(f"SELECT record FROM {table} WHERE {where}", values).fetchone()  # noqa: S608  # constants
    if row is None:
        return
    report = _ROUND.validate_python(json.loads(row["record"]))
    record = _ROUND.dump_json(replace(report, energy=energy.plus(report.energy))).decode()
    db.execute(f"UPDATE {table} SET record = ? WHERE {where}", (record, *values))  # noqa: S608
