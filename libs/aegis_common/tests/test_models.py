from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aegis_common.canonical import canonical_json
from aegis_common.errors import ConfigurationError
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.errors import (
    InvalidObjectKey,
    InvalidProvenance,
    ModelDigestMismatch,
    ModelSignatureInvalid,
    ModelVersionExists,
    ModelVersionNotInStore,
    ObjectTooLarge,
    RecordUnreadable,
)
from aegis_common.store.manifest import Manifest
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHA = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"  # of b"aaa"
MANIFEST = "default/models/digits/versions/v1.json"


@pytest.fixture
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(f"file://{tmp_path}/objects")


@pytest.fixture
def models(objects: ObjectStore, signer: Signer) -> ModelStore:
    return ModelStore(objects, signer, TrustedKeys(), clock=lambda: NOW)


async def publish(models: ModelStore, data: bytes = b"aaa", **changed: Any) -> Manifest:
    names = {
        "tenant": "default",
        "model": "digits",
        "version": "v1",
        "format": "onnx",
        "provenance": {"run": "r1"},
    }
    return await models.publish(data=data, **(names | changed))


async def test_a_published_version_is_read_back_and_fetched(models: ModelStore, signer: Signer) -> None:
    written = await publish(models, inputs=[{"name": "x", "shape": [1, 64]}])

    read = await models.manifest("default", "digits", "v1")

    assert read == written
    assert read == Manifest(
        tenant="default",
        model="digits",
        version="v1",
        sha256=SHA,
        size_bytes=3,
        format="onnx",
        created_at=NOW,
        provenance={"run": "r1"},
        inputs=[{"name": "x", "shape": [1, 64]}],
        signer_key_id=signer.key_id,
    )
    assert await models.fetch(read) == b"aaa"


async def test_bytes_lie_under_their_digest_and_the_envelope_says_who_signed(
    models: ModelStore, objects: ObjectStore, signer: Signer
) -> None:
    await publish(models)

    envelope = json.loads(await objects.get(MANIFEST))

    assert await objects.get(f"default/blobs/sha256/{SHA}") == b"aaa"
    assert set(envelope) == {"schema_version", "manifest", "key_id", "signature"}
    assert envelope["key_id"] == signer.key_id
    signer.public_key.verify(base64.b64decode(envelope["signature"]), envelope["manifest"].encode())
    assert envelope["manifest"].encode() == canonical_json(json.loads(envelope["manifest"]))


async def test_publishing_the_same_bytes_again_changes_nothing(models: ModelStore) -> None:
    first = await publish(models)

    assert await publish(models, provenance={"run": "later"}) == first


async def test_a_version_is_immutable(models: ModelStore) -> None:
    await publish(models)

    with pytest.raises(ModelVersionExists) as caught:
        await publish(models, b"bbb")

    assert caught.value.metadata == {"model": "digits", "version": "v1", "sha256": SHA}
    assert await models.fetch(await models.manifest("default", "digits", "v1")) == b"aaa"


async def test_a_missing_version_is_not_in_the_store(models: ModelStore) -> None:
    with pytest.raises(ModelVersionNotInStore) as caught:
        await models.manifest("default", "digits", "v1")

    assert caught.value.metadata == {"model": "digits", "version": "v1"}


async def test_versions_and_models_are_listed_per_tenant(models: ModelStore) -> None:
    await publish(models, version="v2")
    await publish(models, version="v1")
    await publish(models, model="cats")
    await publish(models, tenant="acme", model="dogs")

    assert await models.versions("default", "digits") == ["v1", "v2"]
    assert await models.versions("default", "dogs") == []
    assert await models.models("default") == ["cats", "digits"]
    assert await models.models("acme") == ["dogs"]


async def test_a_manifest_by_an_unknown_key_is_refused(models: ModelStore, objects: ObjectStore) -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    await publish(models)

    with pytest.raises(ModelSignatureInvalid):
        await ModelStore(objects, None, TrustedKeys([stranger.public_key])).manifest(
            "default", "digits", "v1"
        )


async def test_a_reader_needs_the_public_key_only(
    models: ModelStore, objects: ObjectStore, signer: Signer
) -> None:
    written = await publish(models)
    reader = ModelStore(objects, None, TrustedKeys([signer.public_key]))

    assert await reader.manifest("default", "digits", "v1") == written
    with pytest.raises(ConfigurationError):
        await publish(reader, version="v2")


@pytest.mark.parametrize(
    ("field", "value"), [("sha256", "0" * 64), ("size_bytes", 4), ("provenance", {}), ("version", "v2")]
)
async def test_a_changed_manifest_is_refused(
    models: ModelStore, objects: ObjectStore, field: str, value: object
) -> None:
    await publish(models)
    envelope = json.loads(await objects.get(MANIFEST))
    manifest = json.loads(envelope["manifest"]) | {field: value}

    await objects.put(MANIFEST, canonical_json(envelope | {"manifest": canonical_json(manifest).decode()}))

    with pytest.raises(ModelSignatureInvalid):
        await models.manifest("default", "digits", "v1")


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64", "A" * 86 + "=="])
async def test_a_broken_signature_is_refused(
    models: ModelStore, objects: ObjectStore, signature: str
) -> None:
    await publish(models)
    envelope = json.loads(await objects.get(MANIFEST))

    await objects.put(MANIFEST, canonical_json(envelope | {"signature": signature}))

    with pytest.raises(ModelSignatureInvalid):
        await models.manifest("default", "digits", "v1")


@pytest.mark.parametrize(
    "place", ["default/models/digits/versions/v2.json", "acme/models/digits/versions/v1.json"]
)
async def test_a_signed_manifest_counts_only_in_its_own_place(
    models: ModelStore, objects: ObjectStore, place: str
) -> None:
    await publish(models)
    await objects.put(place, await objects.get(MANIFEST))
    tenant, _, model, _, file = place.split("/")

    with pytest.raises(ModelSignatureInvalid, match="moved"):
        await models.manifest(tenant, model, file.removesuffix(".json"))


@pytest.mark.parametrize("damage", [b"aab", b"aa", b"aaaa"])
async def test_damaged_bytes_are_not_served_and_publishing_mends_them(
    models: ModelStore, objects: ObjectStore, damage: bytes
) -> None:
    manifest = await publish(models)
    await objects.put(f"default/blobs/sha256/{SHA}", damage)

    with pytest.raises(ModelDigestMismatch) as caught:
        await models.fetch(manifest)
    await publish(models)

    assert caught.value.metadata == {"model": "digits", "version": "v1", "sha256": SHA}
    assert await models.fetch(manifest) == b"aaa"


async def test_lost_bytes_are_not_in_the_store(models: ModelStore, objects: ObjectStore) -> None:
    manifest = await publish(models)
    await objects.delete(f"default/blobs/sha256/{SHA}")

    with pytest.raises(ModelVersionNotInStore):
        await models.fetch(manifest)


async def test_a_newer_schema_version_is_refused_by_name(models: ModelStore, objects: ObjectStore) -> None:
    await publish(models)
    envelope = json.loads(await objects.get(MANIFEST))

    await objects.put(MANIFEST, canonical_json(envelope | {"schema_version": 2}))

    with pytest.raises(RecordUnreadable, match="schema version 2") as caught:
        await models.manifest("default", "digits", "v1")
    assert caught.value.metadata["schema_version"] == "2"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"schema_version":1}', b'{"schema_version":true}', b"\xff"]
)
async def test_a_broken_record_is_refused(models: ModelStore, objects: ObjectStore, data: bytes) -> None:
    await objects.put(MANIFEST, data)

    with pytest.raises(RecordUnreadable):
        await models.manifest("default", "digits", "v1")


@pytest.mark.parametrize(
    "names",
    [
        {"tenant": "a/b"},
        {"model": "../x"},
        {"model": "Digits"},
        {"version": ""},
        {"version": "a/b"},
        {"version": "V1"},
    ],
)
async def test_names_that_are_no_names_are_refused(models: ModelStore, names: dict[str, Any]) -> None:
    with pytest.raises(InvalidObjectKey):
        await publish(models, **names)


@pytest.mark.parametrize("provenance", [{"loss": float("nan")}, {"at": NOW}, {1: "one"}])
async def test_provenance_that_is_no_json_is_refused(models: ModelStore, provenance: dict[Any, Any]) -> None:
    with pytest.raises(InvalidProvenance):
        await publish(models, provenance=provenance)

    assert await models.versions("default", "digits") == []


async def test_a_model_over_the_limit_is_refused(objects: ObjectStore, signer: Signer) -> None:
    small = ModelStore(objects, signer, TrustedKeys(), max_model_bytes=2)

    with pytest.raises(ObjectTooLarge):
        await publish(small)


def test_keys_are_loaded_from_files_and_folders(tmp_path: Path, signer: Signer) -> None:
    private, folder = tmp_path / "key.pem", tmp_path / "trusted"
    folder.mkdir()
    key = Ed25519PrivateKey.generate()
    private.write_bytes(pem(key))
    (folder / "a.pem").write_bytes(public_pem(key))
    loaded = Signer.load(private)

    trusted = TrustedKeys.load(folder)

    assert trusted.verify(loaded.key_id, loaded.sign(b"x"), b"x") is True
    assert trusted.verify(loaded.key_id, loaded.sign(b"x"), b"y") is False
    assert trusted.verify(signer.key_id, signer.sign(b"x"), b"x") is False
    assert TrustedKeys.load(folder / "a.pem").keys().keys() == {loaded.key_id}


def test_added_and_removed_keys_count_at_once(tmp_path: Path) -> None:
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    (tmp_path / "old.pem").write_bytes(public_pem(old))
    trusted = TrustedKeys.load(tmp_path)

    (tmp_path / "new.pem").write_bytes(public_pem(new))
    (tmp_path / "half-written.pem").write_text("-----BEGIN")
    (tmp_path / "old.pem").unlink()

    assert trusted.keys().keys() == {Signer(new).key_id}


def test_wrong_key_files_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(pem(X25519PrivateKey.generate()))
    (tmp_path / "empty").mkdir()

    for load in (Signer.load, TrustedKeys.load):
        for path in (tmp_path / "none.pem", other, tmp_path / "empty"):
            with pytest.raises(ConfigurationError, match=str(path)):
                load(path)


def pem(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def public_pem(key: Ed25519PrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form)
