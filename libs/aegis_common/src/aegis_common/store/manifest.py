"""The signed manifest of a model version: what the bytes are, where they came from, who vouches for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from aegis_common.canonical import canonical_json
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.envelope import Envelope
from aegis_common.store.errors import InvalidProvenance, ModelSignatureInvalid, RecordUnreadable
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 1
_FIELD: Final = "manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One immutable version of a model.

    Attributes:
        sha256: Digest of the model file, 64 lower-case hex digits.
        size_bytes: Size of the model file.
        format: Format of the model file, for example `onnx`.
        created_at: When the manifest was made, UTC.
        provenance: JSON object: training run, data set, metrics, limits of the domain.
        inputs: Names, types and shapes of the inputs, as a JSON value; None when not stated.
        outputs: The same for the outputs.
        signer_key_id: Id of the key that signed.
    """

    schema_version: int = SCHEMA_VERSION
    tenant: str
    model: str
    version: str
    sha256: str
    size_bytes: int
    format: str
    created_at: datetime
    provenance: dict[str, Any]
    inputs: Any = None
    outputs: Any = None
    signer_key_id: str

    def to_canonical(self) -> str:
        """Return the canonical JSON text, which is what is signed.

        Raises:
            InvalidProvenance: The free-form parts hold something that JSON cannot carry.
        """
        record = asdict(self) | {"created_at": self.created_at.astimezone(UTC).isoformat()}
        try:
            return canonical_json(record).decode()
        except (TypeError, ValueError) as error:
            raise InvalidProvenance(
                f"provenance, inputs and outputs must be JSON: {error}",
                model=self.model,
                version=self.version,
            ) from error

    @classmethod
    def from_canonical(cls, text: str, *, key: str) -> Manifest:
        """Read the canonical JSON text found at *key*.

        Raises:
            RecordUnreadable: It is broken, or of a schema version that this reader does not know.
        """
        record = read_record(
            text, key=key, known={SCHEMA_VERSION}, fields=[field.name for field in fields(cls)]
        )
        try:
            created_at = datetime.fromisoformat(record["created_at"])
        except (TypeError, ValueError) as error:
            raise RecordUnreadable(f"record {key}: created_at is no time", key=key) from error
        texts = ("tenant", "model", "version", "sha256", "format", "signer_key_id")
        if not (
            all(isinstance(record[name], str) for name in texts)
            and type(record["size_bytes"]) is int
            and isinstance(record["provenance"], dict)
            and created_at.tzinfo
        ):
            raise RecordUnreadable(f"record {key}: a field has a wrong type", key=key)
        return cls(**(record | {"created_at": created_at}))


def seal(manifest: Manifest, signer: Signer) -> bytes:
    """Return the envelope: the canonical text of *manifest* and a detached signature over it."""
    return Envelope.sign(_FIELD, manifest.to_canonical(), signer).to_bytes()


def unseal(data: bytes, *, key: str, trusted: TrustedKeys) -> Manifest:
    """Return the manifest in the envelope *data* found at *key*, once its signature is verified.

    Raises:
        ModelSignatureInvalid: No trusted key made the signature, or not over this text.
        RecordUnreadable: The envelope or the manifest is broken, or of an unknown schema version.
    """
    envelope = Envelope.read(data, field=_FIELD, key=key)
    key_id = envelope.key_id
    if not envelope.verify(trusted):
        raise ModelSignatureInvalid(
            f"manifest {key}: the signature by key {key_id} is not valid or the key is not trusted; "
            "add the signer's public key to the trusted keys, or publish the version again",
            key=key,
            key_id=key_id,
        )
    manifest = Manifest.from_canonical(envelope.text, key=key)
    if manifest.signer_key_id != key_id:
        raise ModelSignatureInvalid(
            f"manifest {key} names the signer {manifest.signer_key_id}, but {key_id} signed it",
            key=key,
            key_id=key_id,
        )
    return manifest
