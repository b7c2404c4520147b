from __future__ import annotations

import json
from pathlib import Path

import pytest

from aegis_client.cli.app import run
from aegis_common.audit.log import AuditLog
from aegis_common.audit.record import AuditRecord
from aegis_common.auth.principal import ANONYMOUS
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.signing import Signer


@pytest.fixture
async def logs(tmp_path: Path) -> Path:
    """Two audit logs in one folder that ship their checkpoints to the same place, and the public key."""
    new_key = new_ed25519(tmp_path / "key.pem")
    signer = Signer.load(tmp_path / "key.pem")
    (tmp_path / "pub.pem").write_bytes(public_key_pem(new_key))
    for service in ("agent", "carbon"):
        log = AuditLog(
            tmp_path / "audit" / service,
            service=service,
            instance="one",
            key=signer,
            ship_dir=tmp_path / "audit" / "shipped",
        )
        async with log:
            for _ in range(3):
                await log.append(AuditRecord(method="/x/Y", principal=ANONYMOUS, code="OK"))
    return tmp_path


def verify(logs: Path, *more: str) -> int:
    return run(["audit", "verify", str(logs / "audit"), "--key", str(logs / "pub.pem"), *more])


async def test_good_logs_are_proved(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(logs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(" ok " in line for line in lines[1:])

    assert verify(logs, "-o", "json") == 0
    chains = json.loads(capsys.readouterr().out)["chains"]
    assert [(chain["ok"], chain["unsealed_records"]) for chain in chains] == [(True, 0), (True, 0)]


async def test_a_changed_record_is_found(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [file] = (logs / "audit" / "carbon").glob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"/x/Y"', b'"/x/Z"', 1))

    assert verify(logs) == 1
    assert f"{file.name}: record" in capsys.readouterr().err


async def test_a_lost_chain_is_found_by_its_shipped_checkpoints(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (logs / "audit" / "carbon").iterdir():
        file.unlink()

    assert verify(logs) == 1
    assert "the file is missing, but checkpoints of it exist" in capsys.readouterr().err


async def test_wrong_paths_are_named(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (logs / "empty").mkdir()

    assert run(["audit", "verify", str(logs / "empty"), "--key", str(logs / "pub.pem")]) == 2
    assert "no audit log in" in capsys.readouterr().err
    assert run(["audit", "verify", str(logs / "none"), "--key", str(logs / "pub.pem")]) == 2
    assert "none cannot be read: No such file" in capsys.readouterr().err
    assert run(["audit", "verify", str(logs / "audit"), "--key", str(logs / "no.pem")]) == 2
    assert "no.pem" in capsys.readouterr().err
