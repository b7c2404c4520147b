"""`aegis models` and `aegis models keys`, against a service whose every answer the test knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aegis.agent.v1 import model_service_pb2 as pb
from aegis.agent.v1 import replica_pb2 as replica
from aegis_client.cli.app import run
from aegis_common.signing import Signer

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Aegis, Deployment

MODEL = bytes(range(256)) * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.yaml").write_text("schema_version: 1\ntask: raw\n")
    (made / "model.onnx").write_bytes(MODEL)
    return made


def test_the_first_push_says_what_to_do_and_the_next_works(
    aegis: Aegis, deployment: Deployment, folder: Path
) -> None:
    assert aegis("models", "push", folder, "--name", "yard") == 2
    assert "aegis models keys enroll" in aegis.err
    assert deployment.uploads.firsts == []

    assert aegis("models", "keys", "enroll", "--description", "laptop") == 0
    assert "of alice is enrolled" in aegis.out
    place = Path(aegis.out.split("private key is in ")[1].partition(";")[0])
    assert (place.name, place.stat().st_mode & 0o777) == ("sdk.key", 0o600)

    assert aegis("models", "push", folder, "--name", "yard", "--alias", "prod", "--alias", "canary") == 0
    name, aliases = aegis.out.splitlines()
    assert name.startswith("models/yard/versions/")
    assert aliases == "aliases  production, canary"
    assert deployment.models.versions[name].signer_key_id == Signer.load(place).key_id


def test_each_profile_signs_with_its_own_key(aegis: Aegis, profile_file: Path, folder: Path) -> None:
    assert aegis("models", "keys", "enroll") == 0
    code = run(
        [
            "--profile-file",
            str(profile_file),
            "--profile",
            "people",
            "models",
            "push",
            str(folder),
            "--name",
            "x",
        ]
    )

    assert code == 2
    assert [file.name for file in (profile_file.parent / "publisher-keys").iterdir()] == ["sdk.key"]


def test_keys_are_listed_and_revoked(aegis: Aegis, tmp_path: Path) -> None:
    assert aegis("models", "keys", "list") == 0
    assert aegis.out == "no publisher keys\n"
    assert aegis("models", "keys", "enroll", "--key", tmp_path / "my.key", "-o", "json") == 0
    made = json.loads(aegis.out)
    key_id = made["publisher_key"]["name"].removeprefix("publisherKeys/")
    assert made["file"] == str(tmp_path / "my.key")

    assert aegis("models", "keys", "revoke", key_id) == 0
    assert aegis.out == f"publisherKeys/{key_id} is retired\n"
    assert aegis("models", "keys", "revoke", key_id, "--compromised", "-o", "json") == 0
    assert json.loads(aegis.out)["state"] == "COMPROMISED"
    assert aegis("models", "keys", "list") == 0
    assert [line.split()[:3] for line in aegis.out.splitlines()[1:]] == [[key_id, "compromised", "alice"]]


def test_whose_key_was_revoked_is_told_how_to_get_another(
    aegis: Aegis, folder: Path, profile_file: Path
) -> None:
    key = profile_file.parent / "publisher-keys" / "sdk.key"
    aegis("models", "keys", "enroll", "-o", "json")
    aegis("models", "keys", "revoke", json.loads(aegis.out)["publisher_key"]["name"])

    assert aegis("models", "push", folder, "--name", "yard") == 2
    assert f"in {key} is retired; move that file away and enroll one" in aegis.err
    key.rename(key.with_suffix(".old"))
    assert aegis("models", "keys", "enroll") == 0
    assert aegis("models", "push", folder, "--name", "yard") == 0


def test_a_version_is_pulled_checked_and_described(
    aegis: Aegis, deployment: Deployment, folder: Path, tmp_path: Path
) -> None:
    aegis("models", "keys", "enroll")
    aegis("models", "push", folder, "--name", "yard", "--version", "v1", "--alias", "prod")

    assert aegis("models", "pull", "yard", "prod", tmp_path / "copy") == 0
    assert aegis.out == f"{tmp_path / 'copy'}\n"
    assert (tmp_path / "copy" / "model.onnx").read_bytes() == MODEL
    assert aegis("models", "describe", "yard", "prod") == 0
    assert "aegis-bundle" in aegis.out
    assert aegis("models", "verify", "yard") == 0
    assert aegis.out.splitlines()[1].split(maxsplit=2) == ["signature", "ok", "signed by alice"]

    deployment.models.contents["models/yard/versions/v1"] = b"x"
    assert aegis("models", "pull", "yard", "v1", tmp_path / "other") == 1
    assert "aegis: what came of models/yard/versions/v1" in aegis.err
    assert not (tmp_path / "other").exists()


def test_a_fault_in_a_version_ends_with_1(aegis: Aegis, deployment: Deployment) -> None:
    kind = pb.VerifyModelVersionResponse.Check.KIND_DIGEST
    deployment.models.faults = [
        pb.VerifyModelVersionResponse.Check(kind=kind, message="other bytes", reason="MODEL_DIGEST_MISMATCH")
    ]

    assert aegis("models", "verify", "digits", "v1") == 1
    assert "FAULT   MODEL_DIGEST_MISMATCH: other bytes" in aegis.out
    assert aegis("models", "verify", "digits", "v1", "-o", "json") == 1
    assert json.loads(aegis.out)["checks"][1]["passed"] is False


def test_aliases_move_forth_and_back(aegis: Aegis, deployment: Deployment) -> None:
    assert aegis("models", "promote", "digits", "v3", "--alias", "prod") == 0
    assert aegis.out == "models/digits: production is now v3\n"
    assert aegis("models", "rollback", "digits") == 0
    assert aegis.out == "models/digits: production went back from v3 to v1\n"
    assert deployment.models.rollbacks[0].from_version == "v3"
    assert aegis("models", "rollback", "digits", "--alias", "prod", "-o", "json") == 0
    assert json.loads(aegis.out)["to_version"] == "v1"


def test_every_change_says_where_it_is_not_live_yet(
    aegis: Aegis, deployment: Deployment, folder: Path
) -> None:
    lagging = replica.ReplicaStatus(
        replica="agent-2", state=replica.ReplicaStatus.STATE_LAGGING, message="wait"
    )
    deployment.models.replicas = [lagging]
    aegis("models", "keys", "enroll")

    for change in (
        ("push", str(folder), "--name", "yard"),
        ("rollback", "digits"),
        ("rm", "digits", "v1"),
        ("rm", "digits", "--alias", "prod"),
    ):
        assert aegis("models", *change) == 0
        assert aegis.err == "agent-2: LAGGING: wait\n"


def test_an_agent_that_does_not_follow_a_revocation_is_named(aegis: Aegis, deployment: Deployment) -> None:
    states = replica.ReplicaStatus
    lagging = states(replica="agent-2", state=states.STATE_LAGGING, message="wait")
    aegis("models", "keys", "enroll")
    key_id = next(iter(deployment.publishers.keys)).removeprefix("publisherKeys/")
    deployment.publishers.replicas = [lagging]

    assert aegis("models", "keys", "revoke", key_id, "--compromised") == 0
    assert aegis.err == "agent-2: LAGGING: wait\n"


def test_a_version_of_a_compromised_key_is_marked(aegis: Aegis, deployment: Deployment) -> None:
    deployment.models.versions["models/digits/versions/v2"].distrusted = True

    assert aegis("models", "versions", "digits") == 0
    assert ["(distrusted)" in line for line in aegis.out.splitlines()] == [False, True, False]
    assert aegis("models", "describe", "digits", "v2") == 0
    assert "its signer's key is compromised" in aegis.out


def test_versions_and_aliases_are_removed(aegis: Aegis, deployment: Deployment) -> None:
    assert aegis("models", "rm", "digits") == 2
    assert aegis("models", "rm", "digits", "--alias", "prod", "v1", "v2", "-o", "json") == 0

    assert json.loads(aegis.out) == {
        "deleted": ["v1", "v2"],
        "deleted_aliases": ["production"],
        "replicas": [],
    }
    assert deployment.models.versions == {}
    assert deployment.models.aliases == {"models/digits": {}}
    assert aegis("models", "describe", "digits", "v1") == 1
    assert "aegis models versions MODEL" in aegis.err


def test_a_signer_that_nobody_enrolled_is_refused(
    aegis: Aegis, deployment: Deployment, folder: Path, tmp_path: Path
) -> None:
    aegis("models", "keys", "enroll")
    aegis("models", "push", folder, "--name", "yard", "--version", "v1")
    deployment.publishers.keys.clear()

    assert aegis("models", "pull", "yard", "v1", tmp_path / "copy") == 1
    assert "MODEL_SIGNATURE_INVALID" in aegis.err


@pytest.mark.parametrize(
    ("prepare", "fault"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx: is missing"),
        (
            lambda folder: (folder / "model.yaml").write_text("schema_version: 1\ntask: row\n"),
            "model.yaml: task",
        ),
    ],
)
def test_a_wrong_folder_is_wrong_usage(
    aegis: Aegis, folder: Path, prepare: Callable[[Path], object], fault: str
) -> None:
    aegis("models", "keys", "enroll")
    prepare(folder)

    assert aegis("models", "push", folder, "--name", "yard") == 2
    assert fault in aegis.err
