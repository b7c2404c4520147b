"""What admins decided about apps, in a SQLite file of its own on the coordinator's volume."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from aegis_fl_coordinator.domain.apps import Decision
from aegis_fl_coordinator.domain.errors import UnknownSchema

SCHEMA_VERSION: Final = 1
_BUSY_S: Final = 10.0
_DECISION: Final = TypeAdapter(Decision)
_SCHEMA: Final = """
CREATE TABLE decisions (
  tenant TEXT NOT NULL, app TEXT NOT NULL, sha256 TEXT NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (tenant, app, sha256)) WITHOUT ROWID;
"""


class SqliteDecisions:
    """`Decisions`. One process uses the file; what was put is durable.

    Args:
        path: The file; made if absent, its folder exists.

    Raises:
        UnknownSchema: The file is of a schema version that this reader does not know.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            self._db.close()
            raise UnknownSchema(
                f"{path} has schema version {version}; this coordinator knows {SCHEMA_VERSION}",
                schema_version=str(version),
            )

    def close(self) -> None:
        self._db.close()

    def find(self, tenant: str, app: str, sha256: str) -> Decision | None:
        query = "SELECT record FROM decisions WHERE tenant = ? AND app = ? AND sha256 = ?"
        row = self._db.execute(query, (tenant, app, sha256)).fetchone()
        return None if row is None else _DECISION.validate_json(row[0])

    def put(self, decision: Decision) -> None:
        record = _DECISION.dump_json(decision).decode()
        values = (decision.tenant, decision.app, decision.sha256, record)
        self._db.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?)", values)
