"""Versions that others have signed are stored, and removed with what nobody else needs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.errors import (
    ModelDigestMismatch,
    ModelSignatureInvalid,
    ModelVersionExists,
    ModelVersionNotInStore,
)
from aegis_common.store.manifest import Manifest, seal
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.store.removal import remove_version

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA = b"weights"
SHA = hashlib.sha256(DATA).hexdigest()
BLOB = f"default/blobs/sha256/{SHA}"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(f"file://{tmp_path}/objects")


@pytest.fixture
def store(objects: ObjectStore, signer: Signer) -> ModelStore:
    return ModelStore(objects, None, TrustedKeys([signer.public_key]))


@pytest.fixture
def manifest(signer: Signer) -> Manifest:
    return Manifest(
        tenant="default",
        model="digits",
        version="v1",
        sha256=SHA,
        size_bytes=len(DATA),
        format="onnx",
        created_at=NOW,
        provenance={"run": "r1"},
        signer_key_id=signer.key_id,
    )


async def test_what_somebody_else_has_signed_is_stored_as_it_is(
    store: ModelStore, signer: Signer, manifest: Manifest
) -> None:
    envelope = seal(manifest, signer)
    adopted = [await store.adopt(envelope, DATA) for _ in range(2)]

    assert adopted == [manifest, manifest]
    assert await store.envelope("default", "digits", "v1") == envelope
    assert await store.fetch(manifest) == DATA


async def test_the_same_signed_again_changes_nothing(
    store: ModelStore, signer: Signer, manifest: Manifest
) -> None:
    await store.adopt(seal(manifest, signer), DATA)
    later = replace(manifest, created_at=NOW.replace(hour=13))

    assert await store.adopt(seal(later, signer), DATA) == manifest


@pytest.mark.parametrize("change", [{"provenance": {}}, {"format": "aegis-bundle"}])
async def test_a_version_that_says_something_else_is_refused(
    store: ModelStore, signer: Signer, manifest: Manifest, change: dict[str, object]
) -> None:
    await store.adopt(seal(manifest, signer), DATA)

    with pytest.raises(ModelVersionExists):
        await store.adopt(seal(replace(manifest, **change), signer), DATA)  # type: ignore[arg-type]


async def test_other_bytes_or_another_signer_are_refused_and_leave_nothing(
    store: ModelStore, objects: ObjectStore, signer: Signer, manifest: Manifest
) -> None:
    stranger = Signer(Ed25519PrivateKey.generate())

    for data in (b"", b"weightx", DATA + b"."):
        with pytest.raises(ModelDigestMismatch):
            await store.adopt(seal(manifest, signer), data)
    with pytest.raises(ModelSignatureInvalid):
        await store.adopt(seal(replace(manifest, signer_key_id=stranger.key_id), stranger), DATA)
    assert await objects.list("default/models") == await objects.list("default/blobs") == []


async def test_bytes_that_two_versions_share_go_with_the_last_one(
    store: ModelStore, objects: ObjectStore, signer: Signer, manifest: Manifest
) -> None:
    other = replace(manifest, model="letters", version="v7")
    for item in (manifest, other):
        await store.adopt(seal(item, signer), DATA)
    await remove_version(objects, "default", "digits", "v1", sha256=SHA)
    left = await store.fetch(other)
    await remove_version(objects, "default", "letters", "v7", sha256=SHA)

    assert left == DATA
    with pytest.raises(ModelVersionNotInStore):
        await store.manifest("default", "digits", "v1")
    assert await objects.list("default/blobs") == []


async def test_bytes_stay_while_a_manifest_cannot_be_read(
    store: ModelStore, objects: ObjectStore, signer: Signer, manifest: Manifest
) -> None:
    await store.adopt(seal(manifest, signer), DATA)
    await objects.put("default/models/digits/versions/v2.json", b"of a release to come")
    await remove_version(objects, "default", "digits", "v1", sha256=SHA)

    assert await objects.list("default/blobs") == [BLOB]


async def test_the_same_import_brings_back_bytes_that_are_gone(
    store: ModelStore, objects: ObjectStore, signer: Signer, manifest: Manifest
) -> None:
    await store.adopt(seal(manifest, signer), DATA)
    await objects.delete(BLOB)
    await store.adopt(seal(manifest, signer), DATA)

    assert await store.fetch(manifest) == DATA
