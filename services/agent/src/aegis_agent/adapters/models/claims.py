"""Manifests that callers bring: believed in nothing before it has been looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from aegis_agent.adapters.models.contents import FORMAT_ONNX
from aegis_agent.adapters.models.publisher_keys import public_keys
from aegis_agent.adapters.parts import to_struct
from aegis_agent.domain.publishers import KeyState, PublisherKey
from aegis_agent.domain.version_errors import InvalidModelManifest, ModelTooLarge
from aegis_common.errors import AegisError
from aegis_common.signing import TrustedKeys
from aegis_common.store.bundle import FORMAT_BUNDLE
from aegis_common.store.envelope import Envelope
from aegis_common.store.errors import InvalidProvenance, ModelSignatureInvalid, RecordUnreadable
from aegis_common.store.manifest import Manifest, unseal

_PLACE: Final = "that was sent"
_FORMATS: Final = (FORMAT_ONNX, FORMAT_BUNDLE)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_AHEAD: Final = timedelta(minutes=5)
"""How much the signer's clock may be ahead."""


def claimed(
    envelope: bytes,
    keys: Mapping[str, PublisherKey],
    *,
    names: tuple[str, str, str],
    now: datetime,
    max_model_bytes: int,
) -> Manifest:
    """Return the manifest in *envelope*, once it is signed and sound.

    Args:
        envelope: What came.
        keys: Publisher keys of the caller's tenant, by id.
        names: Tenant, model and version that it has to be for.
        now: Present time.
        max_model_bytes: Largest model file.

    Raises:
        ModelSignatureInvalid: No active key has signed it.
        InvalidModelManifest: It is broken, or for something else.
        ModelTooLarge: It describes a file that is too large.
    """
    manifest = _signed(envelope, keys, tenant=names[0])
    for field, wanted in zip(("tenant", "model", "version"), names, strict=True):
        found = getattr(manifest, field)
        if found != wanted:
            raise InvalidModelManifest.at(field, f"is {found!r}, and this call is for {wanted!r}")
    _check_content(manifest, max_model_bytes)
    _check_description(manifest, envelope, now)
    return manifest


def _signed(envelope: bytes, keys: Mapping[str, PublisherKey], *, tenant: str) -> Manifest:
    active = public_keys(key for key in keys.values() if key.state is KeyState.ACTIVE)
    try:
        return unseal(envelope, key=_PLACE, trusted=TrustedKeys(active))
    except ModelSignatureInvalid as error:
        key_id = error.metadata["key_id"]
        raise ModelSignatureInvalid(
            f"the manifest's signature by key {key_id} is not valid, or the key is no active publisher "
            f"key of tenant {tenant!r}; enroll it, and sign with it",
            key_id=key_id,
            tenant=tenant,
        ) from error
    except RecordUnreadable as error:
        raise InvalidModelManifest.at("", error.message) from error


def _check_content(manifest: Manifest, max_model_bytes: int) -> None:
    if manifest.format not in _FORMATS:
        raise InvalidModelManifest.at(
            "format", f"is {manifest.format!r}; {' and '.join(_FORMATS)} are served"
        )
    if not _DIGEST.fullmatch(manifest.sha256):
        raise InvalidModelManifest.at("sha256", "is not 64 lower-case hex digits")
    if manifest.size_bytes < 1:
        raise InvalidModelManifest.at("size_bytes", f"is {manifest.size_bytes}, and no file is that small")
    if manifest.size_bytes > max_model_bytes:
        raise ModelTooLarge.of(manifest.size_bytes, max_model_bytes)


def _check_description(manifest: Manifest, envelope: bytes, now: datetime) -> None:
    if not _EARLIEST <= manifest.created_at <= now + _AHEAD:
        raise InvalidModelManifest.at(
            "created_at", f"is {manifest.created_at.isoformat()}, which is not this century's past"
        )
    try:
        canonical = manifest.to_canonical() == Envelope.read(envelope, field="manifest", key=_PLACE).text
    except (InvalidProvenance, OverflowError, RecursionError) as error:
        raise InvalidModelManifest.at("", f"has no canonical form: {error}") from error
    if not canonical:
        raise InvalidModelManifest.at("", "is not canonical JSON; make it with aegis_common.store.manifest")
    try:
        to_struct(manifest.provenance)
    except AegisError as error:
        raise InvalidModelManifest.at("provenance", error.message) from error
