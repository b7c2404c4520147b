"""Envelopes: a text and the signature over it, as one stored JSON record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from aegis_common.canonical import canonical_json
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.errors import RecordUnreadable
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A signed text.

    Attributes:
        field: Name of the text in the stored record; it tells kinds of envelopes apart.
        text: What is signed.
        key_id: Id of the key that is said to have signed.
        signature: Its signature over the text, in base64; `verify` tells what it is worth.
    """

    field: str
    text: str
    key_id: str
    signature: str

    @classmethod
    def sign(cls, field: str, text: str, signer: Signer) -> Self:
        return cls(field=field, text=text, key_id=signer.key_id, signature=signer.sign(text.encode()))

    @classmethod
    def read(cls, data: bytes, *, field: str, key: str) -> Self:
        """Read the stored record found at *key*; nothing in it is verified yet.

        Raises:
            RecordUnreadable: It is broken, has another text than *field*, or an unknown schema version.
        """
        names = {"schema_version", field, "key_id", "signature"}
        record = read_record(data, key=key, known={SCHEMA_VERSION}, fields=names)
        text, key_id, signature = record[field], record["key_id"], record["signature"]
        if not all(isinstance(value, str) for value in (text, key_id, signature)):
            raise RecordUnreadable(f"record {key}: a field has a wrong type", key=key)
        return cls(field=field, text=text, key_id=key_id, signature=signature)

    def to_bytes(self) -> bytes:
        """Return the stored record."""
        return canonical_json(
            {
                "schema_version": SCHEMA_VERSION,
                self.field: self.text,
                "key_id": self.key_id,
                "signature": self.signature,
            }
        )

    def verify(self, trusted: TrustedKeys) -> bool:
        """Tell whether a trusted key signed the text."""
        try:
            data = self.text.encode()
        except UnicodeEncodeError:  # JSON can hold half a surrogate pair, which no signer ever signed
            return False
        return trusted.verify(self.key_id, self.signature, data)
