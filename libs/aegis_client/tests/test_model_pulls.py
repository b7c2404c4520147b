"""Models of one's own, pulled with checks of who signed them and of what comes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from libs.aegis_client.tests.conftest import Deployment
from libs.aegis_client.tests.model_desk import MODEL, SPEC, pull, push

from aegis_client import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    UsageError,
)
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.signing import Signer
from aegis_common.store.manifest import Manifest, seal


def test_a_bundle_is_pulled_as_the_folder_that_it_was(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    made = push(deployment, folder, key, aliases=["production"])
    deployment.models.breaks = 2
    got: list[tuple[int, int | None]] = []
    place = pull(deployment, "production", tmp_path / "copy", progress=lambda *now: got.append(now))

    assert place == tmp_path / "copy"
    assert {file.name: file.read_bytes() for file in place.iterdir()} == {
        "model.yaml": SPEC.encode(),
        "model.onnx": MODEL,
    }
    assert got[-1] == (made.size_bytes, made.size_bytes)
    assert len(deployment.calls("DownloadModelVersion")) == 3
    assert pull(deployment, made.version, tmp_path) == tmp_path / f"yard-{made.version}"
    with pytest.raises(UsageError, match="is there already"):
        pull(deployment, made.version, tmp_path)


def test_a_single_file_is_pulled_as_a_file(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    push(deployment, folder / "model.onnx", key, "yard", version="1")
    (tmp_path / "old.onnx").write_bytes(b"old")

    assert pull(deployment, "1", tmp_path) == tmp_path / "yard-1.onnx"
    assert pull(deployment, "1", tmp_path / "old.onnx").read_bytes() == MODEL
    with pytest.raises(NotFound):
        pull(deployment, "2", tmp_path)


@pytest.mark.parametrize("source", ["", "model.onnx"])
def test_what_is_damaged_is_refused_and_leaves_nothing(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path, source: str
) -> None:
    made = push(deployment, folder / source, key, "yard")
    data = deployment.models.contents[made.name]
    target = tmp_path / "target"
    target.mkdir()
    deployment.models.contents[made.name] = data[:-1] + bytes([data[-1] ^ 1])
    # what the service says about the version counts for nothing
    deployment.models.versions[made.name].sha256 = hashlib.sha256(
        deployment.models.contents[made.name]
    ).hexdigest()

    with pytest.raises(DataLoss, match=made.name):
        pull(deployment, made.version, target)
    assert list(target.iterdir()) == []


def test_a_file_that_is_too_short_or_too_long_is_refused(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    made = push(deployment, folder, key)
    data = deployment.models.contents[made.name]

    for damaged in (data[:-1], data[:64], data + b"x"):
        deployment.models.contents[made.name] = damaged
        with pytest.raises(DataLoss):
            pull(deployment, made.version, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_manifest_that_was_moved_or_changed_is_refused(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    first = push(deployment, folder, key, version="1")
    second = push(deployment, folder, key, version="2")
    manifests = deployment.models.manifests
    manifests[second.name] = manifests[first.name]
    manifests[first.name] = manifests[first.name].replace(b"raw", b"RAW").replace(b"yard", b"shed")

    with pytest.raises(FailedPrecondition, match="somebody moved it"):
        pull(deployment, "2", tmp_path / "copy")
    with pytest.raises(FailedPrecondition, match="not valid") as changed:
        pull(deployment, "1", tmp_path / "copy")
    assert changed.value.reason == "MODEL_SIGNATURE_INVALID"
    assert not (tmp_path / "copy").exists()


def test_keys_count_until_they_are_compromised(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    push(deployment, folder, key, version="1")
    with deployment.client() as client:
        mine = next(client.publisher_keys.list()).key_id
        assert client.publisher_keys.revoke(mine).state == "RETIRED"
        client.models.pull("yard", "1", tmp_path / "retired")
        assert client.publisher_keys.revoke(mine, compromised=True).state == "COMPROMISED"

        with pytest.raises(FailedPrecondition, match="not trusted"):
            client.models.pull("yard", "1", tmp_path / "compromised")


def test_only_the_keys_count_that_the_caller_names(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    push(deployment, folder, key, version="1")
    (tmp_path / "mine").mkdir()
    other = public_key_pem(new_ed25519(tmp_path / "other.key"))
    (tmp_path / "mine" / "other.pem").write_bytes(other)

    with pytest.raises(FailedPrecondition, match="not trusted"):
        pull(deployment, "1", tmp_path / "copy", trusted=tmp_path / "mine")
    with pytest.raises(UsageError, match="no Ed25519 public key"):
        pull(deployment, "1", tmp_path / "copy", trusted=[key])
    public = Signer.load(key).public_key
    (tmp_path / "mine" / "mine.pem").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    assert pull(deployment, "1", tmp_path / "copy", trusted=[tmp_path / "mine"]).is_dir()


def test_a_bundle_that_is_none_is_refused(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    made = push(deployment, tmp_path / "model.onnx", key, "yard")
    text = json.loads(deployment.models.manifests[made.name])["manifest"]
    claims = replace(Manifest.from_canonical(text, key=""), format="aegis-bundle")
    deployment.models.manifests[made.name] = seal(claims, Signer.load(key))

    with pytest.raises(FailedPrecondition) as refused:
        pull(deployment, made.version, tmp_path / "copy")
    assert refused.value.reason == "INVALID_MODEL_BUNDLE"
    assert [path for path in tmp_path.iterdir() if "copy" in path.name] == []
