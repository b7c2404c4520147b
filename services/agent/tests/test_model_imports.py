"""Models that people bring: signed by their own key, stored, served, given back; all else is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.json_format import MessageToDict
from services.agent.tests.agent_stack import Stack, action, failure, running_stack
from services.agent.tests.model_publisher import raw

from aegis.agent.v1 import artifact_service_pb2 as artifact_pb
from aegis.agent.v1 import model_service_pb2 as pb
from aegis.agent.v1 import publisher_service_pb2 as publisher_pb
from aegis_common.clock import utc_now
from aegis_common.publisher_proof import proof_text
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.envelope import Envelope
from aegis_common.store.manifest import Manifest, seal, unseal
from bundle_support import COLOURS, bundle, mean_colour

pytestmark = pytest.mark.asyncio(loop_scope="module")

Make = Callable[..., bytes]
Check = pb.VerifyModelVersionResponse.Check
LIMIT = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("agent")
    async with running_stack(folder, tools=(), tools_dir=None, max_model_bytes=LIMIT) as made:
        yield made


@dataclass(frozen=True)
class Person:
    """Somebody who brings models.

    Attributes:
        account: Whose certificate is used.
        signer: The person's publisher key.
    """

    stack: Stack
    account: str
    tenant: str
    signer: Signer

    @classmethod
    async def enrolled(cls, stack: Stack, account: str = "sdk", tenant: str = "default") -> Person:
        signer = Signer(Ed25519PrivateKey.generate())
        publishers = stack.publishers(account)
        who = await publishers.GetPublisher(publisher_pb.GetPublisherRequest())
        proof = base64.b64decode(signer.sign(proof_text(who.tenant, who.subject, raw(signer))))
        await publishers.EnrollPublisherKey(
            publisher_pb.EnrollPublisherKeyRequest(public_key=raw(signer), proof=proof)
        )
        return cls(stack, account, tenant, signer)

    async def revoke(self) -> None:
        name = f"publisherKeys/{self.signer.key_id}"
        await self.stack.publishers(self.account).RevokePublisherKey(
            publisher_pb.RevokePublisherKeyRequest(name=name)
        )

    async def upload(self, data: bytes) -> str:
        async def requests() -> AsyncIterator[artifact_pb.UploadArtifactRequest]:
            yield artifact_pb.UploadArtifactRequest(content=HttpBody(data=data))

        stored = await self.stack.artifacts(self.account).UploadArtifact(requests())
        return stored.artifact.name

    def manifest(self, model: str, data: bytes, /, **changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "tenant": self.tenant,
            "model": model,
            "version": "v1",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "format": "onnx",
            "created_at": utc_now(),
            "provenance": {"labels": ["red", "green", "blue"]},
            "signer_key_id": self.signer.key_id,
        }
        return Manifest(**(fields | changes))

    def sealed(self, model: str, data: bytes, /, **changes: Any) -> bytes:
        return seal(self.manifest(model, data, **changes), self.signer)

    async def bring(
        self, model: str, artifact: str, manifest: bytes, *aliases: str, version: str = "v1"
    ) -> pb.ImportModelVersionResponse:
        return await self.stack.models(self.account).ImportModelVersion(
            pb.ImportModelVersionRequest(
                parent=f"models/{model}",
                version=version,
                artifact=artifact,
                manifest=manifest,
                aliases=aliases,
            )
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(stack: Stack) -> Person:
    return await Person.enrolled(stack)


async def download(stack: Stack, name: str, **fields: int) -> tuple[str, bytes]:
    kind, data = "", b""
    call = stack.models().DownloadModelVersion(pb.DownloadModelVersionRequest(name=name, **fields))
    async for piece in call:
        kind = kind or piece.content.content_type
        data += piece.content.data
    return kind, data


async def test_a_model_is_brought_served_and_given_back(stack: Stack, ada: Person, make_linear: Make) -> None:
    data = make_linear()
    artifact = await ada.upload(data)
    envelope = ada.sealed("mine", data)
    brought = await ada.bring("mine", artifact, envelope, "production", "stable")
    again = await ada.bring("mine", artifact, ada.sealed("mine", data), "production")
    answer = await stack.agent().Dispatch(action("mine", input=[[1, 0, 0, 0]]))
    name = "models/mine/versions/v1"
    found = await stack.models("viewer").GetModelVersion(pb.GetModelVersionRequest(name=name))
    whole = await download(stack, name)
    middle = await download(stack, name, offset=10, limit=20)
    end = await download(stack, name, offset=len(data))

    assert (brought.model_version.name, brought.model_version.signer_key_id) == (name, ada.signer.key_id)
    assert list(brought.model_version.aliases) == ["production", "stable"]
    assert again.model_version == brought.model_version == found.model_version
    assert MessageToDict(answer.result[0].json)["labels"] == ["red"]
    assert found.manifest == envelope
    trusted = TrustedKeys([ada.signer.public_key])
    assert unseal(found.manifest, key="x", trusted=trusted).sha256 == hashlib.sha256(data).hexdigest()
    assert whole == ("application/octet-stream", data)
    assert middle[1] == data[10:30]
    assert end == ("application/octet-stream", b"")


async def test_a_bundle_is_brought_and_proved_again(stack: Stack, ada: Person) -> None:
    data = bundle(COLOURS, mean_colour())
    envelope = ada.sealed("palette", data, format="aegis-bundle")
    await ada.bring("palette", await ada.upload(data), envelope, "production")
    name = "models/palette/versions/v1"
    checked = await stack.models().VerifyModelVersion(pb.VerifyModelVersionRequest(name=name))

    assert await download(stack, name) == ("application/zip", data)
    assert [(check.kind, check.passed) for check in checked.checks] == [
        (Check.KIND_SIGNATURE, True),
        (Check.KIND_DIGEST, True),
        (Check.KIND_LOAD, True),
        (Check.KIND_EXAMPLE, True),
    ]


async def test_the_artifact_may_go_and_a_retry_still_succeeds(
    stack: Stack, ada: Person, make_linear: Make
) -> None:
    data = make_linear(shift=1)
    artifact, envelope = await ada.upload(data), ada.sealed("kept", data)
    await ada.bring("kept", artifact, envelope)
    await stack.artifacts().DeleteArtifact(artifact_pb.DeleteArtifactRequest(name=artifact))
    again = await ada.bring("kept", artifact, envelope, "production")

    assert list(again.model_version.aliases) == ["production"]
    assert (await download(stack, "models/kept/versions/v1"))[1] == data


async def test_the_same_import_twice_at_once_is_one(stack: Stack, ada: Person, make_linear: Make) -> None:
    data = make_linear()
    artifact = await ada.upload(data)
    both = await asyncio.gather(
        *(ada.bring("twins", artifact, ada.sealed("twins", data), "production") for _ in range(2))
    )
    versions = await stack.models().ListModelVersions(pb.ListModelVersionsRequest(parent="models/twins"))

    assert both[0].model_version == both[1].model_version
    assert list(versions.model_versions) == [both[0].model_version]


async def test_what_cannot_be_loaded_leaves_nothing_and_its_id_is_free(
    stack: Stack, ada: Person, make_linear: Make
) -> None:
    junk = b"no model at all"
    refused = await failure(
        ada.bring("fresh", await ada.upload(junk), ada.sealed("fresh", junk), "production")
    )
    unknown = await failure(stack.models().GetModel(pb.GetModelRequest(name="models/fresh")))
    data = make_linear()
    await ada.bring("fresh", await ada.upload(data), ada.sealed("fresh", data), "production")

    assert (refused[1], unknown[1]) == ("MODEL_NOT_LOADABLE", "UNKNOWN_MODEL")
    assert (await download(stack, "models/fresh/versions/v1"))[1] == data


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"tenant": "blue"}, "INVALID_MODEL_MANIFEST", "tenant"),
        ({"model": "other"}, "INVALID_MODEL_MANIFEST", "model"),
        ({"version": "v2"}, "INVALID_MODEL_MANIFEST", "version"),
        ({"format": "pickle"}, "INVALID_MODEL_MANIFEST", "format"),
        ({"sha256": "../../etc"}, "INVALID_MODEL_MANIFEST", "sha256"),
        ({"size_bytes": 0}, "INVALID_MODEL_MANIFEST", "size_bytes"),
        ({"size_bytes": -1}, "INVALID_MODEL_MANIFEST", "size_bytes"),
        ({"created_at": utc_now() + timedelta(days=1)}, "INVALID_MODEL_MANIFEST", "created_at"),
        (
            {"created_at": datetime.min.replace(tzinfo=utc_now().tzinfo)},
            "INVALID_MODEL_MANIFEST",
            "created_at",
        ),
        ({"provenance": {"n": 10**400}}, "INVALID_MODEL_MANIFEST", "provenance"),
        ({"size_bytes": LIMIT + 1}, "MODEL_TOO_LARGE", ""),
        ({"size_bytes": 5}, "MODEL_DIGEST_MISMATCH", ""),
        ({"sha256": "0" * 64}, "MODEL_DIGEST_MISMATCH", ""),
    ],
)
async def test_a_manifest_for_something_else_is_refused(
    ada: Person, make_linear: Make, changes: dict[str, Any], reason: str, field: str
) -> None:
    data = make_linear()
    sealed = ada.sealed("odd", data, **changes)
    _, found, metadata = await failure(ada.bring("odd", await ada.upload(data), sealed))

    assert (found, metadata.get("field", "")) == (reason, field)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "[" * 30_000,
        lambda text: "{}",
        lambda text: text.replace(":", ": ", 1),
        lambda text: text.replace('"provenance":{', '"provenance":{"a":NaN,'),
        lambda text: text.replace('"provenance":{', '"provenance":{"a":"\\ud800",'),
        lambda text: text.replace('"provenance":{', '"provenance":{"a":' + "[" * 900 + "]" * 900 + ","),
        lambda text: text.replace('"size_bytes":', '"size_bytes":1e'),
    ],
)
async def test_a_signed_text_that_is_no_sound_manifest_is_refused(
    ada: Person, make_linear: Make, change: Callable[[str], str]
) -> None:
    data = make_linear()
    text = change(ada.manifest("odd", data).to_canonical())
    envelope = Envelope.sign("manifest", text, ada.signer).to_bytes()
    kind, reason, _ = await failure(ada.bring("odd", await ada.upload(data), envelope))

    assert (kind.name, reason) == ("INVALID_ARGUMENT", "INVALID_MODEL_MANIFEST")


@pytest.mark.parametrize("envelope", [b"junk", b"{}", b"[" * 60_000])
async def test_what_is_no_envelope_is_refused(ada: Person, make_linear: Make, envelope: bytes) -> None:
    assert (await failure(ada.bring("odd", await ada.upload(make_linear()), envelope)))[1] == (
        "INVALID_MODEL_MANIFEST"
    )


async def test_only_an_active_key_of_the_tenant_signs(stack: Stack, ada: Person, make_linear: Make) -> None:
    data = make_linear()
    artifact = await ada.upload(data)
    blue = await Person.enrolled(stack, "blue-trainer", "blue")
    revoked = await Person.enrolled(stack)
    await revoked.revoke()
    stranger = replace(ada, signer=Signer(Ed25519PrivateKey.generate()))
    forged = json.loads(stranger.sealed("odd", data)) | {"key_id": ada.signer.key_id}
    envelopes = [
        replace(blue, tenant="default").sealed("odd", data),
        revoked.sealed("odd", data),
        stranger.sealed("odd", data),
        json.dumps(forged).encode(),
    ]

    for envelope in envelopes:
        assert (await failure(ada.bring("odd", artifact, envelope)))[1] == "MODEL_SIGNATURE_INVALID"


async def test_an_artifact_that_is_not_there_or_another_tenants_is_no_file(
    stack: Stack, ada: Person, make_linear: Make
) -> None:
    data = make_linear(shift=2)
    blue = await Person.enrolled(stack, "blue-trainer", "blue")
    theirs = await blue.upload(data)
    missing = f"artifacts/{'0' * 64}"

    for artifact in (theirs, missing):
        assert (await failure(ada.bring("odd", artifact, ada.sealed("odd", data))))[1] == "UNKNOWN_ARTIFACT"


async def test_a_version_is_not_taken_over_nor_its_id_used_again(
    stack: Stack, ada: Person, make_linear: Make
) -> None:
    first, second = make_linear(), make_linear(shift=1)
    await ada.bring("once", await ada.upload(first), ada.sealed("once", first))
    artifact, other = await ada.upload(second), ada.sealed("once", second)
    taken = await failure(ada.bring("once", artifact, other))
    told = await failure(ada.bring("once", artifact, ada.sealed("once", first, provenance={})))
    named = pb.DeleteModelVersionRequest(name="models/once/versions/v1")
    await stack.models().DeleteModelVersion(named)
    deleted = await failure(ada.bring("once", artifact, other))
    gone = await failure(stack.models().DeleteModelVersion(named))

    assert (taken[1], told[1]) == ("MODEL_VERSION_EXISTS", "MODEL_VERSION_EXISTS")
    assert (deleted[1], gone[1]) == ("MODEL_VERSION_DELETED", "UNKNOWN_MODEL")


async def test_an_alias_goes_back_and_away_by_rpc(stack: Stack, ada: Person, make_linear: Make) -> None:
    models = stack.models()
    for number in (1, 2):
        data, version = make_linear(shift=number), f"v{number}"
        sealed = ada.sealed("moved", data, version=version)
        await ada.bring("moved", await ada.upload(data), sealed, "production", version=version)
    back = await models.RollbackAlias(
        pb.RollbackAliasRequest(model="models/moved", alias="production", from_version="v2")
    )
    in_use = await failure(
        models.DeleteModelVersion(pb.DeleteModelVersionRequest(name="models/moved/versions/v1"))
    )
    gone = await models.DeleteAlias(pb.DeleteAliasRequest(model="models/moved", alias="production"))
    call = await failure(stack.agent().Dispatch(action("moved", input=[[1, 0, 0, 0]])))

    assert (back.from_version, back.to_version, dict(back.model.aliases)) == (
        "v2",
        "v1",
        {"production": "v1"},
    )
    assert [status.state for status in back.replicas] == [1]
    assert (in_use[1], in_use[2]["aliases"]) == ("MODEL_VERSION_IN_USE", "production")
    assert (dict(gone.model.aliases), gone.model.tool) == ({}, "")
    assert call[1] == "UNKNOWN_TOOL"


async def test_a_model_of_another_tenant_can_be_neither_read_nor_changed(
    stack: Stack, ada: Person, make_linear: Make
) -> None:
    data, name = make_linear(), "models/secret/versions/v1"
    await ada.bring("secret", await ada.upload(data), ada.sealed("secret", data), "production")
    blue = stack.models("blue-trainer")
    reading = blue.DownloadModelVersion(pb.DownloadModelVersionRequest(name=name))

    for call in (
        blue.GetModelVersion(pb.GetModelVersionRequest(name=name)),
        anext(aiter(reading)),
        blue.VerifyModelVersion(pb.VerifyModelVersionRequest(name=name)),
        blue.DeleteModelVersion(pb.DeleteModelVersionRequest(name=name)),
        blue.RollbackAlias(pb.RollbackAliasRequest(model="models/secret", alias="production")),
        blue.DeleteAlias(pb.DeleteAliasRequest(model="models/secret", alias="production")),
    ):
        assert (await failure(call))[1] == "UNKNOWN_MODEL"


async def test_a_range_beyond_the_end_is_refused(stack: Stack, ada: Person, make_linear: Make) -> None:
    data = make_linear()
    await ada.bring("short", await ada.upload(data), ada.sealed("short", data))
    call = stack.models().DownloadModelVersion(
        pb.DownloadModelVersionRequest(name="models/short/versions/v1", offset=len(data) + 1)
    )

    assert (await failure(anext(aiter(call))))[1] == "OFFSET_OUT_OF_RANGE"
