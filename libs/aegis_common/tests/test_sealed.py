"""Sealed records: signed for one kind and one place, and refused by name when they are anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis_common.canonical import canonical_json
from aegis_common.errors import ConfigurationError
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.envelope import Envelope
from aegis_common.store.errors import RecordSignatureInvalid, RecordUnreadable
from aegis_common.store.manifest import Manifest, seal, unseal
from aegis_common.store.sealed import RecordKind, RecordSeal

NOTE = RecordKind("note", fields={"text", "count"})
NOTE_2 = RecordKind("note", fields={"text", "count"}, version=2, known={1, 2})
ORDER = RecordKind("order", fields={"text", "count"})
RECORD = {"text": "größer", "count": 2}
KEY = "default/notes/1.json"


@pytest.fixture
def records(signer: Signer) -> RecordSeal:
    return RecordSeal(signer)


@pytest.fixture
def closed(records: RecordSeal) -> bytes:
    return records.close(NOTE, RECORD, key=KEY)


def test_a_record_is_read_back(records: RecordSeal, closed: bytes) -> None:
    assert records.open(NOTE, closed, key=KEY) == RECORD | {"schema_version": 1}


def test_another_process_with_the_same_key_reads_it(signer: Signer, closed: bytes) -> None:
    assert RecordSeal(signer).open(NOTE, closed, key=KEY)["text"] == "größer"


def test_a_record_by_another_key_is_refused(closed: bytes) -> None:
    stranger = RecordSeal(Signer(Ed25519PrivateKey.generate()))

    with pytest.raises(RecordSignatureInvalid, match="all agents need the same records key"):
        stranger.open(NOTE, closed, key=KEY)


def test_a_record_by_an_earlier_key_counts_while_that_is_named(
    signer: Signer, closed: bytes, tmp_path: Path
) -> None:
    new_ed25519(tmp_path / "now.key")
    (tmp_path / "earlier.pem").write_bytes(public_key_pem(signer._key))

    seal = RecordSeal.load(tmp_path / "now.key", earlier=[tmp_path / "earlier.pem"])

    assert seal.open(NOTE, closed, key=KEY)["count"] == 2
    with pytest.raises(RecordSignatureInvalid):
        RecordSeal.load(tmp_path / "now.key").open(NOTE, closed, key=KEY)


def test_a_key_file_that_holds_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "records.key").write_text("nothing")

    with pytest.raises(ConfigurationError, match=r"records\.key holds no Ed25519 private key"):
        RecordSeal.load(tmp_path / "records.key")


def test_a_record_in_another_place_is_refused(records: RecordSeal, closed: bytes) -> None:
    with pytest.raises(RecordSignatureInvalid, match=r"default/notes/1\.json.*somebody moved it"):
        records.open(NOTE, closed, key="other/notes/1.json")


def test_a_record_of_another_kind_is_refused(records: RecordSeal, closed: bytes) -> None:
    with pytest.raises(RecordSignatureInvalid, match=r"signed as note .* not as order"):
        records.open(ORDER, closed, key=KEY)


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope: envelope | {"record": envelope["record"].replace("2", "3")},
        lambda envelope: envelope | {"signature": "AAAA"},
        lambda envelope: envelope | {"signature": "no base64"},
        lambda envelope: envelope | {"key_id": "0" * 16},
        lambda envelope: envelope | {"record": "\ud800"},
    ],
)
def test_a_changed_record_is_refused(
    records: RecordSeal, closed: bytes, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    changed = json.dumps(change(json.loads(closed))).encode()

    with pytest.raises(RecordSignatureInvalid):
        records.open(NOTE, changed, key=KEY)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"schema_version":1,"record":1,"key_id":"a","signature":"b"}'],
)
def test_what_is_no_envelope_is_unreadable(records: RecordSeal, data: bytes) -> None:
    with pytest.raises(RecordUnreadable):
        records.open(NOTE, data, key=KEY)


def test_a_newer_schema_version_is_refused_by_name_and_the_one_before_is_read(records: RecordSeal) -> None:
    older, newer = (records.close(kind, RECORD, key=KEY) for kind in (NOTE, NOTE_2))

    with pytest.raises(RecordUnreadable, match=r"schema version 2; this reader knows \[1\]"):
        records.open(NOTE, newer, key=KEY)
    assert records.open(NOTE_2, older, key=KEY)["schema_version"] == 1


@pytest.mark.parametrize("record", [{"text": "x"}, RECORD | {"more": 1}, {}])
def test_a_record_with_other_fields_is_not_written(records: RecordSeal, record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="missing or unknown fields"):
        records.close(NOTE, record, key=KEY)


@pytest.mark.parametrize("text", ["{}", "x", "[1]", '{"kind":"note"}'])
def test_a_signed_text_that_is_no_record_is_unreadable(
    records: RecordSeal, signer: Signer, text: str
) -> None:
    with pytest.raises(RecordUnreadable, match="neither its kind nor its place"):
        records.open(NOTE, Envelope.sign("record", text, signer).to_bytes(), key=KEY)


def test_a_manifest_is_stored_as_it_always_was(signer: Signer) -> None:
    """Bytes that earlier releases wrote are read, and the other way round."""
    manifest = Manifest.from_canonical(_MANIFEST % signer.key_id, key=KEY)
    before = canonical_json(
        {
            "schema_version": 1,
            "manifest": _MANIFEST % signer.key_id,
            "key_id": signer.key_id,
            "signature": signer.sign((_MANIFEST % signer.key_id).encode()),
        }
    )

    assert seal(manifest, signer) == before
    assert unseal(before, key=KEY, trusted=TrustedKeys([signer.public_key])) == manifest


_MANIFEST = (
    '{"created_at":"2026-03-01T12:00:00+00:00","format":"onnx","inputs":null,"model":"digits","outputs":null,'
    '"provenance":{},"schema_version":1,"sha256":"0","signer_key_id":"%s","size_bytes":3,"tenant":"default",'
    '"version":"v1"}'
)
