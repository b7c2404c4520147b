"""Sealed records: what processes of one service write into a store for one another, signed.

    KEY_REVOKED = RecordKind("key-revoked", fields={"tenant", "key_id"})
    await objects.put_if_absent(key, seal.close(KEY_REVOKED, {"tenant": ..., "key_id": ...}, key=key))
    record = seal.open(KEY_REVOKED, await objects.get(key), key=key)

Whoever can write to the store but lacks the signing key can remove such a record. It cannot make one, change
one, put it in another place, or pass one kind off as another.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from aegis_common.canonical import canonical_json
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.envelope import Envelope
from aegis_common.store.errors import RecordSignatureInvalid, RecordUnreadable
from aegis_common.store.records import read_record

MAX_SEALED_BYTES: Final = 64 << 10
"""Enough for any sealed record that is no file; a bound for who reads them."""
_FIELD: Final = "record"
_OWN_FIELDS: Final = frozenset({"schema_version", "kind", "place"})
_NOBODY: Final = TrustedKeys()


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One kind of record.

    Attributes:
        name: Tells it from every other kind that the same key signs.
        fields: Exactly its own fields; besides them every record has `schema_version`, `kind` and `place`.
        version: Schema version that is written.
        known: Schema versions that are read.
    """

    name: str
    fields: Collection[str]
    version: int = 1
    known: Collection[int] = (1,)


class RecordSeal:
    """Signs and verifies records; all processes that share records have the same key.

    Args:
        signer: Signs; its own records are believed.
        trusted: Earlier keys whose records are believed as well.
    """

    def __init__(self, signer: Signer, trusted: TrustedKeys = _NOBODY) -> None:
        self._signer = signer
        self._trusted = trusted.including(signer.public_key)

    @classmethod
    def load(cls, key: Path, *, earlier: Iterable[Path] = ()) -> Self:
        """Read the private key, and the public ones (PEM files, or folders of them) that it took over from.

        Raises:
            ConfigurationError: A file cannot be read, or holds no such key.
        """
        paths = tuple(earlier)
        return cls(Signer.load(key), TrustedKeys.load(*paths) if paths else _NOBODY)

    def close(self, kind: RecordKind, record: Mapping[str, Any], *, key: str) -> bytes:
        """Return what is to be stored at *key*.

        Raises:
            ValueError: *record* has other fields than its kind, or holds something that JSON cannot carry.
            TypeError: The same.
        """
        if set(record) != set(kind.fields):
            odd = ", ".join(sorted(set(record) ^ set(kind.fields)))
            raise ValueError(f"a record of the kind {kind.name} has missing or unknown fields: {odd}")
        own = {"schema_version": kind.version, "kind": kind.name, "place": key}
        text = canonical_json({**record, **own}).decode()
        return Envelope.sign(_FIELD, text, self._signer).to_bytes()

    def open(self, kind: RecordKind, data: bytes, *, key: str) -> dict[str, Any]:
        """Return the record of that kind that was stored at *key*, with its `schema_version`.

        Raises:
            RecordSignatureInvalid: No trusted key signed it, or not as this kind of record for this place.
            RecordUnreadable: It is broken, or of a schema version that this reader does not know.
        """
        envelope = Envelope.read(data, field=_FIELD, key=key)
        if not envelope.verify(self._trusted):
            raise RecordSignatureInvalid(
                f"record {key}: the signature by key {envelope.key_id} is not valid or the key not trusted; "
                "all agents need the same records key, and the public half of an earlier one",
                key=key,
                key_id=envelope.key_id,
            )
        signed_for = _signed_for(envelope.text, key=key)
        if signed_for != (kind.name, key):
            raise RecordSignatureInvalid(
                f"record {key} was signed as {signed_for[0]} for {signed_for[1]}, not as {kind.name} for "
                "here; somebody moved it",
                key=key,
                key_id=envelope.key_id,
            )
        fields = _OWN_FIELDS.union(kind.fields)
        record = read_record(envelope.text, key=key, known=kind.known, fields=fields)
        return {name: value for name, value in record.items() if name not in ("kind", "place")}


def _signed_for(text: str, *, key: str) -> tuple[str, str]:
    try:
        record = json.loads(text)
        return str(record["kind"]), str(record["place"])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise RecordUnreadable(f"record {key} says neither its kind nor its place", key=key) from error
