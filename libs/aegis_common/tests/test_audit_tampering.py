from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis_common.audit.chain import Chain
from aegis_common.audit.format import with_hash
from aegis_common.audit.log import AuditLog
from aegis_common.audit.verify import verify
from aegis_common.canonical import canonical_json
from aegis_common.signing import Signer
from aegis_common.testing.audit import FIRST, NOW, SECOND, call, check, lines, write


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b"alice", len(data) // 2)
    data[place] ^= 1
    path.write_bytes(data)


def drop_a_record(path: Path) -> None:
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:3] + kept[4:]))


def swap_two_records(path: Path) -> None:
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*kept[:3], kept[4], kept[3], *kept[5:]]))


def repeat_a_record(path: Path) -> None:
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*kept[:4], kept[3], *kept[4:]]))


def write_it_with_spaces(path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in lines(path)))


def cut_the_end(path: Path) -> None:
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:-1]))


def cut_within_a_record(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def cut_the_end_and_all_checkpoints_here(path: Path) -> None:
    cut_the_end(path)
    path.with_name(path.name + ".checkpoints").unlink()


def write_the_chain_anew(path: Path) -> None:
    head, records = "0" * 64, []
    for record in lines(path):
        del record["hash"]
        if record["seq"] == 4:
            record["code"] = "PERMISSION_DENIED"
        records.append(with_hash(record | {"prev": head}))
        head = str(records[-1]["hash"])
    path.write_bytes(b"".join(canonical_json(record) + b"\n" for record in records))


def remove_the_file(path: Path) -> None:
    path.unlink()


def empty_the_file(path: Path) -> None:
    path.write_bytes(b"")


def claim_a_newer_schema(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"schema_version":1', b'"schema_version":2', 1))


def forge_a_checkpoint(path: Path) -> None:
    checkpoints = path.with_name(path.name + ".checkpoints")
    last = lines(checkpoints)[-1] | {"seq": 3}
    checkpoints.write_bytes(checkpoints.read_bytes() + canonical_json(last) + b"\n")


def append_after_the_end(path: Path) -> None:
    last = lines(path)[-1]
    more = {name: value for name, value in last.items() if name != "hash"} | {"seq": 8, "prev": last["hash"]}
    path.write_bytes(path.read_bytes() + canonical_json(with_hash(more)) + b"\n")


@pytest.mark.parametrize(
    ("tamper", "records", "fault"),
    [
        (flip_a_byte, 4, "record 5 was changed"),
        (drop_a_record, 3, "record 4 does not follow"),
        (swap_two_records, 3, "record 4 does not follow"),
        (repeat_a_record, 4, "record 5 does not follow"),
        (write_it_with_spaces, 0, "record 1 was changed"),
        (cut_the_end, 6, "it was cut"),
        (cut_within_a_record, 6, "it was cut"),
        (cut_the_end_and_all_checkpoints_here, 6, "it was cut"),
        (write_the_chain_anew, 7, "the chain was written anew"),
        (remove_the_file, 0, "the file is missing"),
        (empty_the_file, 0, "it was cut"),
        (claim_a_newer_schema, 0, "schema version 2; this reader knows 1"),
        (forge_a_checkpoint, 7, "has a wrong signature"),
        (append_after_the_end, 8, "record 8 follows the checkpoint that closed"),
    ],
)
async def test_tampering_is_found(
    open_log: Callable[..., AuditLog],
    tmp_path: Path,
    signer: Signer,
    tamper: Callable[[Path], None],
    records: int,
    fault: str,
) -> None:
    await write(open_log(), 6)

    tamper(tmp_path / "log" / FIRST)

    (report,) = check(tmp_path, signer)
    assert not report.ok
    assert fault in report.fault
    assert report.records == records


async def test_every_single_flipped_bit_is_found(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    await write(open_log(), 1)
    path = tmp_path / "log" / FIRST
    good = path.read_bytes()

    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        assert not check(tmp_path, signer)[0].ok, place


async def test_a_checkpoint_by_an_unknown_key_proves_nothing(
    open_log: Callable[..., AuditLog], tmp_path: Path
) -> None:
    await write(open_log(), 3)

    (report,) = verify(tmp_path / "log", [Ed25519PrivateKey.generate().public_key()])

    assert (report.ok, report.sealed_records, report.unsealed_records) == (False, 0, 4)
    assert "unknown key" in report.fault


async def test_a_cut_end_without_checkpoint_shows_in_the_next_file(
    tmp_path: Path, signer: Signer, open_log: Callable[..., AuditLog]
) -> None:
    # a process that died before it sealed anything
    chain = Chain(tmp_path / "log", service="carbon", instance="pod-0", signer=signer, ship_dir=None, now=NOW)
    chain.write([("call", NOW, call(number).to_json()) for number in range(4)])
    chain.close()
    await write(open_log(), 1)
    assert [report.ok for report in check(tmp_path, signer)] == [True, True]

    cut_the_end(tmp_path / "log" / FIRST)

    assert (
        check(tmp_path, signer)[0].fault
        == f"{SECOND} follows record 5 of this file, which is not there: it was cut"
    )


async def test_a_file_missing_in_the_middle_is_found_but_old_ones_may_go(
    open_log: Callable[..., AuditLog], tmp_path: Path, signer: Signer
) -> None:
    for _ in range(3):
        await write(open_log(), 1)

    def remove(file: str) -> None:
        for place in ("log", "shipped"):
            (tmp_path / place / f"{file}.checkpoints").unlink()
        (tmp_path / "log" / file).unlink()

    remove(SECOND)
    assert [report.fault for report in check(tmp_path, signer)] == [
        "",
        f"the file before it, {SECOND}, is missing, but older ones are there",
    ]

    remove(FIRST)
    assert [report.ok for report in check(tmp_path, signer)] == [True]


@pytest.mark.parametrize("line", [b"\xff", b"{", b"7", b'{"schema_version":1,"x":"\\ud800"}', b"[" * 100_000])
def test_nonsense_in_a_chain_file_is_a_fault_not_a_crash(tmp_path: Path, line: bytes) -> None:
    (tmp_path / FIRST).write_bytes(line + b"\n")

    assert [report.ok for report in verify(tmp_path, [])] == [False]
