"""A model service of the tests: it keeps what it is given, and checks signatures as the real one does."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.agent.v1 import artifact_service_pb2 as artifact
from aegis.agent.v1 import artifact_service_pb2_grpc as artifact_grpc
from aegis.agent.v1 import model_service_pb2 as pb
from aegis.agent.v1 import model_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import publisher_service_pb2 as publisher
from aegis.agent.v1 import publisher_service_pb2_grpc as publisher_grpc
from aegis.agent.v1 import replica_pb2 as replica
from aegis_client import ModelVersion
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.publisher_proof import is_proved
from aegis_common.rpc.errors import GRPC_CODES, to_status
from aegis_common.signing import TrustedKeys, key_id
from aegis_common.store.manifest import unseal

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Deployment

TENANT, SUBJECT = "default", "alice"
START = Timestamp(seconds=1_750_000_000)
MODEL = bytes(range(256)) * 2
SPEC = "schema_version: 1\nname: yard\ntask: raw\n"


class Refused(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "REFUSED"


class Unknown(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_MODEL_VERSION"


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: AegisError | grpc.StatusCode) -> None:
    """End the call: with details for one of our errors, and bare, as a proxy does, for a code."""
    if isinstance(error, grpc.StatusCode):
        await context.abort(error, "broken on the way")
    status = to_status(error)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(GRPC_CODES[status.code], status.message, details)


class Uploads(artifact_grpc.ArtifactServiceServicer):
    """Keeps artifacts by name, what is known of them, and the first message of each upload."""

    def __init__(self) -> None:
        self.described: dict[str, artifact.Artifact] = {}
        self.kept: dict[str, bytes] = {}
        self.holders: defaultdict[str, set[str]] = defaultdict(set)
        self.firsts: list[artifact.UploadArtifactRequest] = []

    async def UploadArtifact(self, requests: Any, context: Any) -> artifact.UploadArtifactResponse:
        first = await anext(requests)
        self.firsts.append(first)
        name = f"artifacts/{first.sha256}"
        if first.existing and name not in self.kept:
            await refuse(context, Unknown("it is not here"))
        if not first.existing:
            self.kept[name] = b"".join([item.content.data async for item in requests])
            name = f"artifacts/{hashlib.sha256(self.kept[name]).hexdigest()}"
            self.described[name] = artifact.Artifact(name=name, filename=first.filename, create_time=START)
            lives = first.retention.seconds or 7 * 86400
            self.described[name].expire_time.seconds = START.seconds + lives
        self.holders[name].add(first.holder)
        return artifact.UploadArtifactResponse(artifact=self.described[name])

    async def GetArtifact(self, request: Any, context: Any) -> artifact.GetArtifactResponse:
        if request.name not in self.kept:
            await refuse(context, Unknown("it is not here"))
        return artifact.GetArtifactResponse(artifact=self.described[request.name])

    async def DeleteArtifact(self, request: Any, context: Any) -> artifact.DeleteArtifactResponse:
        self.holders[request.name].discard(request.holder)
        if not request.holder or not self.holders[request.name]:
            del self.kept[request.name], self.holders[request.name]
        return artifact.DeleteArtifactResponse()


class Publishers(publisher_grpc.PublisherServiceServicer):
    """Keys of one tenant, listed one to a page.

    Attributes:
        replicas: How far each agent is with a revocation.
    """

    def __init__(self) -> None:
        self.keys: dict[str, publisher.PublisherKey] = {}
        self.replicas: list[replica.ReplicaStatus] = []

    @property
    def trusted(self) -> TrustedKeys:
        return TrustedKeys(Ed25519PublicKey.from_public_bytes(key.public_key) for key in self.keys.values())

    async def GetPublisher(self, request: Any, context: Any) -> publisher.GetPublisherResponse:
        return publisher.GetPublisherResponse(tenant=TENANT, subject=SUBJECT)

    async def EnrollPublisherKey(self, request: Any, context: Any) -> publisher.EnrollPublisherKeyResponse:
        if not is_proved(TENANT, SUBJECT, request.public_key, request.proof):
            await refuse(context, Refused("the proof is not valid"))
        key = publisher.PublisherKey(
            name=f"publisherKeys/{key_id(Ed25519PublicKey.from_public_bytes(request.public_key))}",
            public_key=request.public_key,
            subject=SUBJECT,
            description=request.description,
            state=publisher.PublisherKey.STATE_ACTIVE,
            create_time=START,
        )
        self.keys[key.name] = key
        return publisher.EnrollPublisherKeyResponse(publisher_key=key)

    async def ListPublisherKeys(self, request: Any, context: Any) -> publisher.ListPublisherKeysResponse:
        at = int(request.page_token or 0)
        after = str(at + 1) if at + 1 < len(self.keys) else ""
        page = sorted(self.keys.values(), key=lambda key: key.name)[at : at + 1]
        return publisher.ListPublisherKeysResponse(publisher_keys=page, next_page_token=after)

    async def RevokePublisherKey(self, request: Any, context: Any) -> publisher.RevokePublisherKeyResponse:
        key = self.keys[request.name]
        states = publisher.PublisherKey
        key.state = states.STATE_COMPROMISED if request.compromised else states.STATE_RETIRED
        key.revoke_time.CopyFrom(START)
        key.revoked_by = SUBJECT
        return publisher.RevokePublisherKeyResponse(publisher_key=key, replicas=self.replicas)


class Models(pb_grpc.ModelServiceServicer):
    """Begins with `digits`, versions v1 and v2; what is imported is kept as it came.

    Attributes:
        manifests: Signed manifests by the version's name.
        contents: Files by the version's name.
        breaks: How often a download breaks off after one piece.
        faults: What `VerifyModelVersion` finds.
        replicas: How far each agent is with a change.
    """

    def __init__(self, publishers: Publishers, uploads: Uploads) -> None:
        self._publishers = publishers
        self._uploads = uploads
        self.manifests: dict[str, bytes] = {}
        self.contents: dict[str, bytes] = {}
        self.breaks = 0
        self.replicas: list[replica.ReplicaStatus] = []
        self.faults: list[pb.VerifyModelVersionResponse.Check] = []
        self.rollbacks: list[pb.RollbackAliasRequest] = []
        self.aliases: dict[str, dict[str, str]] = {"models/digits": {"production": "v2"}}
        self.versions = {
            f"models/digits/versions/{version}": pb.ModelVersion(
                name=f"models/digits/versions/{version}", sha256=digit * 64, format="onnx"
            )
            for version, digit in (("v2", "b"), ("v1", "a"))
        }
        self.versions["models/digits/versions/v2"].provenance.update({"accuracy": 0.9})

    @property
    def production(self) -> str:
        return self.aliases["models/digits"]["production"]

    def _model(self, name: str) -> pb.Model:
        aliases = self.aliases.setdefault(name, {})
        return pb.Model(name=name, aliases=aliases, tool="tools/digits" if "production" in aliases else "")

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self._model(name) for name in sorted(self.aliases)])

    async def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=self._model(request.name))

    async def ListModelVersions(self, request: Any, context: Any) -> pb.ListModelVersionsResponse:
        found = [item for name, item in self.versions.items() if name.startswith(f"{request.parent}/")]
        return pb.ListModelVersionsResponse(model_versions=found)

    async def GetModelVersion(self, request: Any, context: Any) -> pb.GetModelVersionResponse:
        if request.name not in self.versions:
            await refuse(context, Unknown(f"{request.name} is unknown"))
        return pb.GetModelVersionResponse(
            model_version=self.versions[request.name], manifest=self.manifests.get(request.name, b"{}")
        )

    async def DownloadModelVersion(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.DownloadModelVersionResponse]:
        data = self.contents[request.name][request.offset :]
        for start in range(0, max(len(data), 1), 64):
            yield pb.DownloadModelVersionResponse(content=HttpBody(data=data[start : start + 64]))
            if self.breaks:
                self.breaks -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on the way")

    async def VerifyModelVersion(self, request: Any, context: Any) -> pb.VerifyModelVersionResponse:
        kind = pb.VerifyModelVersionResponse.Check.KIND_SIGNATURE
        good = pb.VerifyModelVersionResponse.Check(kind=kind, passed=True, message="signed by alice")
        return pb.VerifyModelVersionResponse(checks=[good, *self.faults])

    async def PublishModelVersion(self, request: Any, context: Any) -> pb.PublishModelVersionResponse:
        made = pb.ModelVersion(
            name=f"{request.parent}/versions/{request.version}",
            sha256=request.sha256,
            aliases=request.aliases,
        )
        return pb.PublishModelVersionResponse(model_version=made)

    async def ImportModelVersion(self, request: Any, context: Any) -> pb.ImportModelVersionResponse:
        name = f"{request.parent}/versions/{request.version}"
        try:
            manifest = unseal(request.manifest, key=name, trusted=self._publishers.trusted)
        except AegisError as error:
            await refuse(context, error)
            raise
        data = self._uploads.kept[request.artifact]
        assert (manifest.tenant, manifest.size_bytes) == (TENANT, len(data))
        assert hashlib.sha256(data).hexdigest() == manifest.sha256
        self.manifests[name], self.contents[name] = request.manifest, data
        self.aliases.setdefault(request.parent, {}).update(dict.fromkeys(request.aliases, request.version))
        made = pb.ModelVersion(
            name=name,
            sha256=manifest.sha256,
            size_bytes=manifest.size_bytes,
            format=manifest.format,
            signer_key_id=manifest.signer_key_id,
            aliases=request.aliases,
        )
        made.provenance.update(manifest.provenance)
        self.versions[name] = made
        return pb.ImportModelVersionResponse(model_version=made, replicas=self.replicas)

    async def DeleteModelVersion(self, request: Any, context: Any) -> pb.DeleteModelVersionResponse:
        del self.versions[request.name]
        return pb.DeleteModelVersionResponse(replicas=self.replicas)

    async def SetAlias(self, request: Any, context: Any) -> pb.SetAliasResponse:
        self.aliases[request.model][request.alias] = request.version
        return pb.SetAliasResponse(model=self._model(request.model), replicas=self.replicas)

    async def RollbackAlias(self, request: Any, context: Any) -> pb.RollbackAliasResponse:
        self.rollbacks.append(request)
        self.aliases[request.model][request.alias] = "v1"
        return pb.RollbackAliasResponse(
            model=self._model(request.model),
            from_version=request.from_version,
            to_version="v1",
            replicas=self.replicas,
        )

    async def DeleteAlias(self, request: Any, context: Any) -> pb.DeleteAliasResponse:
        del self.aliases[request.model][request.alias]
        return pb.DeleteAliasResponse(model=self._model(request.model), replicas=self.replicas)


def push(deployment: Deployment, source: Path, key: Path, name: str = "", **options: Any) -> ModelVersion:
    with deployment.client() as client:
        return client.models.push(source, name, key=key, **options)


def pull(deployment: Deployment, version: str, target: Path, **options: Any) -> Path:
    with deployment.client() as client:
        return client.models.pull("yard", version, target, **options)
