"""Models of one's own: pushed with a signature, described, promoted and deleted, through both clients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from libs.aegis_client.tests.conftest import QUICK, Deployment
from libs.aegis_client.tests.model_desk import MODEL, SPEC, push

from aegis.agent.v1 import model_service_pb2 as pb
from aegis_client import (
    AsyncClient,
    Client,
    DataLoss,
    FailedPrecondition,
    UsageError,
)
from aegis_common.pki import new_ed25519
from aegis_common.store.bundle import pack


def test_a_folder_is_packed_signed_and_published(deployment: Deployment, folder: Path, key: Path) -> None:
    sent: list[tuple[int, int | None]] = []
    made = push(
        deployment,
        folder,
        key,
        aliases=["production"],
        provenance={"from": "the yard"},
        progress=lambda *now: sent.append(now),
    )

    data = pack(folder)
    digest = hashlib.sha256(data).hexdigest()
    assert (made.name, made.sha256) == (f"models/yard/versions/{digest[:12]}", digest)
    assert (made.format, made.aliases) == ("aegis-bundle", ("production",))
    assert made.provenance == {"from": "the yard"}
    assert f"publisherKeys/{made.signer_key_id}" in deployment.publishers.keys
    assert sent[-1] == (len(data), len(data))
    assert 0 < deployment.uploads.firsts[0].retention.seconds <= 3600


def test_an_upload_goes_when_its_version_is_there(deployment: Deployment, folder: Path, key: Path) -> None:
    push(deployment, folder, key)
    assert {} == deployment.uploads.kept

    deployment.faults.orders["ImportModelVersion"].append(grpc.StatusCode.FAILED_PRECONDITION)
    with pytest.raises(FailedPrecondition):
        push(deployment, folder, key)
    assert [f"artifacts/{hashlib.sha256(pack(folder)).hexdigest()}"] == list(deployment.uploads.kept)


async def test_an_upload_goes_with_the_asynchronous_client_too(
    deployment: Deployment, folder: Path, key: Path
) -> None:
    async with AsyncClient(deployment.profile(), retry=QUICK) as client:
        made = await client.models.push(folder, key=key)

    assert made.sha256 == hashlib.sha256(pack(folder)).hexdigest()
    assert {} == deployment.uploads.kept


def test_an_artifact_that_was_there_before_the_push_stays(
    deployment: Deployment, folder: Path, key: Path
) -> None:
    with deployment.client() as client:
        mine = client.artifacts.put(pack(folder), filename="my-backup.tar")
    push(deployment, folder, key)

    assert [mine.name] == list(deployment.uploads.kept)


def test_a_version_is_there_even_if_its_upload_cannot_go(
    deployment: Deployment, folder: Path, key: Path
) -> None:
    deployment.faults.orders["DeleteArtifact"].append(grpc.StatusCode.PERMISSION_DENIED)

    assert push(deployment, folder, key).name.startswith("models/yard/versions/")


def test_the_same_content_is_the_same_version(deployment: Deployment, folder: Path, key: Path) -> None:
    first = push(deployment, folder, key)
    again = push(deployment, folder, key)
    (folder / "model.onnx").write_bytes(MODEL + b"\0")
    other = push(deployment, folder, key)

    assert again.name == first.name != other.name


def test_name_and_version_come_from_the_caller_or_from_the_folder(
    deployment: Deployment, folder: Path, key: Path
) -> None:
    (folder / "model.yaml").write_text(SPEC + 'version: "7"\n')

    assert push(deployment, folder, key).name == "models/yard/versions/7"
    assert push(deployment, folder, key, "models/shed", version="8").name == "models/shed/versions/8"


def test_a_single_file_is_pushed_as_it_is(deployment: Deployment, folder: Path, key: Path) -> None:
    made = push(deployment, folder / "model.onnx", key, "plain")

    assert (made.format, made.sha256) == ("onnx", hashlib.sha256(MODEL).hexdigest())
    with pytest.raises(UsageError, match="does not say what the model is called"):
        push(deployment, folder / "model.onnx", key)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx: is missing"),
        (lambda folder: (folder / "model.yaml").write_text(SPEC + "tusk: raw\n"), "tusk: is not known"),
        (
            lambda folder: (folder / "model.yaml").write_text(SPEC.replace("task: ", "task: other-")),
            "is not one of 'image-classification', 'text-classification'",
        ),
        (lambda folder: (folder / "model.yaml").write_text("name: [\n"), "model.yaml"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_before_anything_is_sent(
    deployment: Deployment, folder: Path, key: Path, change: Callable[[Path], object], fault: str
) -> None:
    change(folder)

    with pytest.raises(UsageError, match=fault):
        push(deployment, folder, key)
    assert deployment.uploads.firsts == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [("none", "neither a folder"), ("none.onnx", "cannot be read"), ("empty.onnx", "is empty")],
)
def test_a_source_that_is_no_model_is_refused(
    deployment: Deployment, tmp_path: Path, key: Path, source: str, fault: str
) -> None:
    (tmp_path / "empty.onnx").touch()

    with pytest.raises(UsageError, match=fault):
        push(deployment, tmp_path / source, key, "plain")


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ({"name": "Yard"}, "parent: 'models/Yard' is not a model's resource name; use models/MODEL"),
        ({"version": "V 1"}, "version: 'V 1' is not a version's id"),
        ({"aliases": ["fine", "Not Fine"]}, "aliases: 'Not Fine' is not an alias"),
        ({"provenance": {"when": object()}}, "must be JSON"),
        ({"provenance": {"long": "x" * (2 << 20)}}, "manifest has 20.* bytes; at most"),
    ],
)
def test_a_bad_name_is_refused_before_the_upload(
    deployment: Deployment, folder: Path, key: Path, names: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        push(deployment, folder, key, **names)
    assert deployment.uploads.firsts == []


def test_a_push_without_an_enrolled_key_says_how_to_enroll_one(
    deployment: Deployment, folder: Path, key: Path, tmp_path: Path
) -> None:
    new_ed25519(tmp_path / "other.key")
    with deployment.client() as client:
        mine = next(client.publisher_keys.list())
        client.publisher_keys.revoke(mine.key_id)

    for file, state in (("none.key", "there is no"), ("other.key", "is not enrolled"), (key, "is retired")):
        with pytest.raises(UsageError, match=f"{state}.*aegis models keys enroll"):
            push(deployment, folder, tmp_path / file)
    assert deployment.uploads.firsts == []


def test_versions_are_described_verified_and_deleted(deployment: Deployment) -> None:
    with deployment.client() as client:
        found = client.models.describe("digits", "v2")
        good = client.models.verify("digits", "v2")
        deployment.models.faults = [
            pb.VerifyModelVersionResponse.Check(
                kind=pb.VerifyModelVersionResponse.Check.KIND_DIGEST, reason="MODEL_DIGEST_MISMATCH"
            )
        ]
        bad = client.models.verify("digits", "v2")
        client.models.delete("digits", "v1")

        assert found.provenance == {"accuracy": 0.9}
        assert [item.version for item in client.models.versions("digits")] == ["v2"]
        with pytest.raises(UsageError, match="not the id of a version"):
            client.models.delete("digits", "versions/v2")
    assert good
    assert good.checks[0].kind == "SIGNATURE"
    assert not bad
    assert bad.checks[1].reason == "MODEL_DIGEST_MISMATCH"


def test_aliases_go_back_and_away(deployment: Deployment) -> None:
    with deployment.client() as client:
        done = client.models.rollback("digits", from_version="v2")
        gone = client.models.delete_alias("digits", "production")

    assert (done.from_version, done.to_version, done.model.aliases) == ("v2", "v1", {"production": "v1"})
    assert (gone.aliases, gone.tool) == ({}, "")


async def test_the_async_client_does_the_same(deployment: Deployment, folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "mine.key"
    async with AsyncClient(deployment.profile(), retry=QUICK) as client:
        with pytest.raises(UsageError, match="aegis models keys enroll"):
            await client.models.push(folder, key=key)
        enrolled = await client.publisher_keys.enroll(key, description="laptop")
        made = await client.models.push(folder, key=key, aliases=["production"])
        deployment.models.breaks = 1
        place = await client.models.pull("yard", target=tmp_path / "copy")
        deployment.models.contents[made.name] = b"x" * made.size_bytes
        with pytest.raises(DataLoss):
            await client.models.pull("yard", made.version, tmp_path / "other")

    assert (enrolled.description, enrolled.key_id) == ("laptop", made.signer_key_id)
    assert pack(place) == pack(folder)


def test_a_profile_has_a_key_of_its_own(deployment: Deployment, folder: Path, tmp_path: Path) -> None:
    profiles = [deployment.profile(name=name, source=tmp_path / "p.toml") for name in ("a", "../b")]
    for profile in profiles:
        with Client(profile) as client:
            first = client.publisher_keys.enroll()
            assert client.publisher_keys.enroll() == first
            assert client.models.push(folder).signer_key_id == first.key_id

    files = sorted((tmp_path / "publisher-keys").iterdir())
    assert [file.name for file in files] == ["..%2Fb.key", "a.key"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert len(deployment.publishers.keys) == 2
    with deployment.client() as client, pytest.raises(UsageError, match="comes from no file"):
        client.publisher_keys.enroll()


def test_a_key_file_is_never_overwritten(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "my.key").write_text("something else")

    with deployment.client() as client:
        with pytest.raises(UsageError, match="no Ed25519 private key"):
            client.publisher_keys.enroll(tmp_path / "my.key")
        with pytest.raises(UsageError, match="cannot be made"):
            client.publisher_keys.enroll(tmp_path / "my.key" / "below")
    assert (tmp_path / "my.key").read_text() == "something else"
