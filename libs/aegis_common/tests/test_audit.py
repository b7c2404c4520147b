from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis_common.audit.format import ChainName, hashed_line, with_hash
from aegis_common.audit.log import AuditLog, AuditUnavailable
from aegis_common.audit.record import AuditRecord
from aegis_common.audit.verify import ChainReport, verify
from aegis_common.auth.principal import ANONYMOUS, Principal
from aegis_common.canonical import canonical_json
from aegis_common.errors import ConfigurationError
from aegis_common.signing import Signer
from aegis_common.testing.audit import FIRST, SECOND, call, check, lines, write
from aegis_common.testing.waiting import until


async def test_a_record_says_who_did_what_and_how_it_ended(open_log: Callable[..., AuditLog]) -> None:
    log = open_log()
    async with log:
        await log.append(call(7, code="PERMISSION_DENIED"))
        await log.append(
            AuditRecord(method="/x/Y", principal=ANONYMOUS, code="UNAUTHENTICATED", reason="NO_TOKEN")
        )
    start, first, second = lines(log.path)

    assert start["kind"] == "start"
    assert start["previous"] is None
    assert first == with_hash(
        {
            "schema_version": 1,
            "kind": "call",
            "seq": 2,
            "time": "2026-03-01T12:00:00+00:00",
            "prev": start["hash"],
            "service": "carbon",
            "instance": "pod-0",
            "epoch": 1,
            "method": "/aegis.carbon.v1.CarbonService/CheckSchedule",
            "principal": {
                "subject": "alice",
                "spiffe_id": "spiffe://aegis.local/ns/aegis/sa/sdk",
                "tenant": "acme",
                "roles": ["admin", "viewer"],
                "on_behalf_of": False,
            },
            "code": "PERMISSION_DENIED",
            "reason": "",
            "trace_id": "00000000000000000000000000000007",
            "request_digest": "",
            "peer": "",
        }
    )
    assert (second["prev"], second["reason"]) == (first["hash"], "NO_TOKEN")
    assert b"tk" not in log.path.read_bytes()


async def test_a_closed_log_is_proved_to_its_end(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    await write(open_log(), 10)

    assert check(tmp_path, signer) == [
        ChainReport(file=FIRST, records=11, sealed_records=11, unsealed_records=0, closed=True)
    ]
    assert verify(tmp_path / "log", [signer.public_key])[0].sealed_records == 11


async def test_records_written_by_many_tasks_stay_one_chain(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    log = open_log(queue_size=3, checkpoint_every=10)
    async with log:
        await asyncio.gather(*(log.append(call(number)) for number in range(200)))
        await log.flush()
        written = lines(log.path)

    assert sorted(int(str(record["trace_id"]), 16) for record in written[1:]) == list(range(200))
    assert check(tmp_path, signer)[0].ok
    assert len(lines(tmp_path / "log" / f"{FIRST}.checkpoints")) > 2


async def test_a_checkpoint_comes_after_the_interval_too(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    log = open_log(checkpoint_interval=timedelta(milliseconds=20))
    async with log:
        await log.append(call())
        await until(lambda: check(tmp_path, signer)[0].sealed_records == 2)

        assert check(tmp_path, signer)[0].closed is False


async def test_the_next_process_begins_a_new_file_that_names_the_last_record(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    await write(open_log(), 2)
    await write(open_log(), 1)
    last = lines(tmp_path / "log" / FIRST)[-1]

    assert lines(tmp_path / "log" / SECOND)[0]["previous"] == {"file": FIRST, "seq": 3, "hash": last["hash"]}
    assert [report.ok for report in check(tmp_path, signer)] == [True, True]


async def test_two_processes_of_one_name_never_share_a_file(open_log: Callable[..., AuditLog]) -> None:
    async with open_log() as one, open_log() as other:
        assert (one.path.name, other.path.name) == (FIRST, SECOND)


async def test_an_epoch_is_not_used_again_when_the_folder_is_lost(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    await write(open_log(), 1)
    for path in (tmp_path / "log").iterdir():
        path.unlink()
    await write(open_log(), 1)

    lost, kept = check(tmp_path, signer)

    assert (lost.file, lost.ok, lost.fault) == (
        FIRST,
        False,
        "the file is missing, but checkpoints of it exist",
    )
    assert (kept.file, kept.ok) == (SECOND, True)


async def test_a_torn_last_record_is_told_apart_from_tampering(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    log = open_log()
    async with log:
        await log.append(call())
        await log.flush()
        copy = tmp_path / "crashed"
        copy.mkdir()
        (copy / FIRST).write_bytes(log.path.read_bytes() + b'{"schema_ver')

    assert verify(copy, [signer.public_key]) == [
        ChainReport(file=FIRST, records=2, unsealed_records=2, torn=True)
    ]


CRASH = """
import asyncio, sys
from pathlib import Path
from aegis_common.audit.log import AuditLog
from aegis_common.audit.record import AuditRecord
from aegis_common.auth.principal import ANONYMOUS
from aegis_common.signing import Signer
from aegis_common.testing.waiting import until

async def main(folder):
    async with AuditLog(
        folder / "log", service="carbon", instance="pod-0", key=Signer.load(folder / "key.pem"),
        ship_dir=folder / "shipped", checkpoint_every=50,
    ) as log:
        for number in range(10**9):
            await log.append(AuditRecord(method="/x/Y", principal=ANONYMOUS, code="OK"))
            if number % 100 == 0:
                await log.flush()
                print(number, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_what_was_flushed_survives_a_kill(
    open_log: Callable[..., AuditLog], tmp_path: Path, key: Signer
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASH, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        flushed = [int(await process.stdout.readline()) for _ in range(5)][-1]
    finally:
        process.kill()
        await process.communicate()

    await write(open_log(key=key), 1)

    crashed, after = check(tmp_path, key)
    assert (crashed.ok, crashed.closed) == (True, False)
    assert crashed.records >= flushed + 2
    assert crashed.sealed_records > 0
    assert after.ok


@pytest.fixture
def key(tmp_path: Path) -> Signer:
    """A key that a child process can read, at `key.pem`."""
    key = Ed25519PrivateKey.generate()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return Signer.load(tmp_path / "key.pem")


async def test_a_closed_log_takes_no_more_and_may_be_closed_again(open_log: Callable[..., AuditLog]) -> None:
    log = open_log()
    with pytest.raises(AuditUnavailable):
        await log.append(call())
    await log.start()
    await log.close()
    await log.close()

    with pytest.raises(AuditUnavailable):
        await log.append(call())


async def test_a_disk_that_takes_nothing_makes_callers_wait_then_refuses_and_loses_nothing(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.write, True

    def write_or_fail(file: int, data: bytes) -> int:
        if full and len(data) > 200 and Path(f"/proc/self/fd/{file}").readlink().suffix == ".jsonl":
            real(file, data[:100])
            raise OSError(28, "No space left on device")
        return real(file, data)

    async with open_log(queue_size=2, append_timeout=timedelta(milliseconds=50)) as log:
        monkeypatch.setattr(os, "write", write_or_fail)
        taken = 0
        with pytest.raises(AuditUnavailable):
            while True:
                await log.append(call(taken))
                taken += 1
                await asyncio.sleep(0)
        full = False
        await log.flush()
        await log.append(call(taken))

    assert log.failures >= 1
    assert [int(str(record["trace_id"]), 16) for record in lines(log.path)[1:]] == list(range(taken + 1))
    assert check(tmp_path, signer)[0].ok


async def test_a_second_place_that_is_away_gets_the_checkpoint_later(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    shipped = tmp_path / "shipped"
    log = open_log(checkpoint_interval=timedelta(milliseconds=20))
    async with log:
        shipped.rename(tmp_path / "away")
        await log.append(call())
        await until(lambda: log.ship_failures > 0)
        (tmp_path / "away").rename(shipped)
        await until(lambda: lines(shipped / f"{FIRST}.checkpoints")[-1]["seq"] == 2)

    assert check(tmp_path, signer)[0].ok


async def test_a_name_that_is_no_unicode_text_is_written_in_escapes(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    odd = Principal("", json.loads('"a\\ud800\\nb"'), "acme", frozenset())
    log = open_log()
    async with log:
        await log.append(AuditRecord(method="/x/\udcff", principal=odd, code="OK"))

    record = lines(log.path)[1]
    assert (record["method"], record["principal"]["subject"]) == ("/x/\\udcff", "a\\ud800\nb")  # type: ignore[index]
    assert check(tmp_path, signer)[0].ok


async def test_a_log_that_cannot_be_ended_in_order_says_so(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    log = open_log()
    await log.start()
    monkeypatch.setattr(os, "write", fail)
    await log.append(call())
    with pytest.raises(AuditUnavailable):
        await log.close()
    monkeypatch.undo()

    assert (check(tmp_path, signer)[0].ok, check(tmp_path, signer)[0].closed) == (True, False)


@pytest.mark.parametrize("instance", ["", "Pod", "a/b", "a.b", "a" * 64, "-a"])
def test_an_instance_that_is_no_name_is_refused(open_log: Callable[..., AuditLog], instance: str) -> None:
    with pytest.raises(ConfigurationError):
        open_log(instance=instance)


async def test_a_folder_that_cannot_be_made_stops_the_start(
    open_log: Callable[..., AuditLog], tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("a file in its place")

    with pytest.raises(ConfigurationError, match=str(tmp_path / "log")):
        await open_log().start()


@pytest.mark.parametrize(
    "file", ["x.jsonl", "carbon-1.jsonl", "a_b-000001.jsonl", "carbon-000001.jsonl.checkpoints"]
)
def test_other_files_are_no_chains(file: str) -> None:
    assert ChainName.parse(file) is None


def test_a_chain_name_reads_back() -> None:
    assert ChainName.parse("carbon-pod-000009-000012.jsonl") == ChainName("carbon-pod-000009", 12)
    assert ChainName("carbon-pod-0", 1_234_567).file == "carbon-pod-0-1234567.jsonl"


def test_the_verifier_needs_no_transport_and_no_storage() -> None:
    script = (
        "import sys, aegis_common.audit.verify;"
        "heavy = ('grpc', 'google', 'obstore', 'redis', 'pydantic', 'opentelemetry');"
        "print([name for name in heavy if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "record", [{}, {"a": 1}, {"z": [1, "ü"]}, {"code": "OK", "kind": "call", "notes": {"hash": "x"}}]
)
def test_a_line_is_the_canonical_text_of_a_record_with_its_hash(record: dict[str, object]) -> None:
    digest, line = hashed_line(record)

    assert canonical_json(with_hash(record)) + b"\n" == line
    assert with_hash(record)["hash"] == digest


async def test_a_record_is_taken_at_once_while_there_is_room(open_log: Callable[..., AuditLog]) -> None:
    async with open_log(queue_size=2) as log:
        assert [True, True, False] == [log.take(call(number)) for number in range(3)]
        await log.flush()
        assert log.take(call(3))

    with pytest.raises(AuditUnavailable, match="not running"):
        log.take(call(4))
