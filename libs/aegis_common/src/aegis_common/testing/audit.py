"""Records and chains for tests of the audit log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from aegis_common.audit.log import AuditLog
from aegis_common.audit.record import AuditRecord
from aegis_common.audit.verify import ChainReport, verify
from aegis_common.auth.principal import Principal
from aegis_common.signing import Signer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALICE = Principal(
    "spiffe://aegis.local/ns/aegis/sa/sdk",
    "alice",
    "acme",
    frozenset({"viewer", "admin"}),
    token="tk",  # noqa: S106  # it must not be written
)
FIRST = "carbon-pod-0-000001.jsonl"
SECOND = "carbon-pod-0-000002.jsonl"


def call(number: int = 0, code: str = "OK") -> AuditRecord:
    return AuditRecord(
        method="/aegis.carbon.v1.CarbonService/CheckSchedule",
        principal=ALICE,
        code=code,
        trace_id=f"{number:032x}",
    )


async def write(log: AuditLog, count: int) -> None:
    async with log:
        for number in range(count):
            await log.append(call(number))


def check(tmp_path: Path, signer: Signer) -> list[ChainReport]:
    return verify(tmp_path / "log", [signer.public_key], shipped=tmp_path / "shipped")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
