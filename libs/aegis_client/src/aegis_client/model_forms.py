"""What is known about models and their versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from aegis.agent.v1 import model_service_pb2 as pb
from aegis_client.core.operation import Page
from aegis_client.core.values import enum_name, moment, unstruct
from aegis_client.replicas import ReplicaStatus, read_replicas

ModelChange = pb.SetAliasResponse | pb.DeleteAliasResponse | pb.RollbackAliasResponse
VersionChange = pb.PublishModelVersionResponse | pb.ImportModelVersionResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A series of versions under one name.

    Attributes:
        name: `models/{model}`.
        aliases: Alias to version id; `production` is the one that the model's tool serves.
        tool: `tools/{tool}` that serves the model, or empty.
        update_time: When the newest version was made.
        replicas: After a change: how far each agent is with it; else empty.
    """

    name: str
    aliases: dict[str, str]
    tool: str
    update_time: datetime | None
    replicas: tuple[ReplicaStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One immutable version of a model.

    Attributes:
        name: `models/{model}/versions/{version}`.
        sha256: Of the model file, 64 lower-case hex digits.
        format: `onnx`, or `aegis-bundle` for a model with what belongs to it.
        provenance: Training run, data set, metrics, and the limits of the model's domain.
        signer_key_id: Id of the key that signed the manifest.
        aliases: Aliases that point at this version now.
        distrusted: Whether it is not served any longer, because its signer's key is compromised.
        replicas: After a change: how far each agent is with it; else empty.
    """

    name: str
    sha256: str
    size_bytes: int
    format: str
    provenance: dict[str, Any]
    signer_key_id: str
    create_time: datetime | None
    aliases: tuple[str, ...]
    distrusted: bool = False
    replicas: tuple[ReplicaStatus, ...] = ()

    @property
    def version(self) -> str:
        """The version's id: the last part of its name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A version and its signed manifest, as it lies in the store."""

    version: ModelVersion
    manifest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCheck:
    """One thing that was looked at.

    Attributes:
        kind: `SIGNATURE`, `DIGEST`, `LOAD` or `EXAMPLE`.
        passed: Whether it is as it has to be.
        message: What was found, for people.
        reason: Of the error, for example `MODEL_DIGEST_MISMATCH`; empty when it passed.
    """

    kind: str
    passed: bool
    message: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVerification:
    """What a check of a version found; true when it found no fault.

    Attributes:
        checks: In order, up to the first one that failed.
    """

    checks: tuple[ModelCheck, ...]

    def __bool__(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """An alias that went back.

    Attributes:
        model: The model after the change.
        from_version: Id of the version that the alias pointed at.
        to_version: Id of the version that it points at now.
    """

    model: Model
    from_version: str
    to_version: str


def read_models(answer: pb.ListModelsResponse) -> Page[Model]:
    return Page([read_model(model) for model in answer.models], answer.next_page_token)


def read_model(model: pb.Model) -> Model:
    return Model(
        name=model.name,
        aliases=dict(model.aliases),
        tool=model.tool,
        update_time=moment(model, "update_time"),
    )


def read_changed_model(answer: ModelChange) -> Model:
    return replace(read_model(answer.model), replicas=read_replicas(answer.replicas))


def read_versions(answer: pb.ListModelVersionsResponse) -> Page[ModelVersion]:
    return Page([read_version(version) for version in answer.model_versions], answer.next_page_token)


def read_version(version: pb.ModelVersion) -> ModelVersion:
    return ModelVersion(
        name=version.name,
        sha256=version.sha256,
        size_bytes=version.size_bytes,
        format=version.format,
        provenance=unstruct(version.provenance),
        signer_key_id=version.signer_key_id,
        create_time=moment(version, "create_time"),
        aliases=tuple(version.aliases),
        distrusted=version.distrusted,
    )


def read_changed_version(answer: VersionChange) -> ModelVersion:
    return replace(read_version(answer.model_version), replicas=read_replicas(answer.replicas))


def read_signed(answer: pb.GetModelVersionResponse) -> Signed:
    return Signed(version=read_version(answer.model_version), manifest=answer.manifest)


def read_verification(answer: pb.VerifyModelVersionResponse) -> ModelVerification:
    kinds = pb.VerifyModelVersionResponse.Check.Kind
    return ModelVerification(
        checks=tuple(
            ModelCheck(
                kind=enum_name(kinds, check.kind),
                passed=check.passed,
                message=check.message,
                reason=check.reason,
            )
            for check in answer.checks
        )
    )


def read_rollback(answer: pb.RollbackAliasResponse) -> Rollback:
    return Rollback(
        model=read_changed_model(answer), from_version=answer.from_version, to_version=answer.to_version
    )
