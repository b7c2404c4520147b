"""The models that an agent serves, their versions and aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from aegis.agent.v1 import model_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import moment, resource, unstruct
from aegis_client.replicas import ReplicaStatus, read_replicas

LIST_MODELS: Final = method(pb, "ModelService", "ListModels", pb.ListModelsResponse)
GET_MODEL: Final = method(pb, "ModelService", "GetModel", pb.GetModelResponse)
LIST_VERSIONS: Final = method(pb, "ModelService", "ListModelVersions", pb.ListModelVersionsResponse)
PUBLISH: Final = method(pb, "ModelService", "PublishModelVersion", pb.PublishModelVersionResponse)
SET_ALIAS: Final = method(pb, "ModelService", "SetAlias", pb.SetAliasResponse)


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
        provenance: Training run, data set, metrics, and the limits of the model's domain.
        signer_key_id: Id of the key that signed the manifest.
        aliases: Aliases that point at this version now.
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
    replicas: tuple[ReplicaStatus, ...] = ()

    @property
    def version(self) -> str:
        """The version's id: the last part of its name."""
        return self.name.rpartition("/")[2]


def _list(*, page_size: int = 0) -> Listing[Model]:
    """Iterate over the caller's models, ordered by name."""

    def fetch(token: str) -> Operation[Page[Model]]:
        request = pb.ListModelsRequest(page_size=page_size, page_token=token)
        return Operation(LIST_MODELS, request, _read_models)

    return Listing(fetch)


def _get(name: str, *, timeout: float | None = None) -> Operation[Model]:
    """Return one model with its aliases; `digits` and `models/digits` mean the same.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL`.
    """
    request = pb.GetModelRequest(name=resource("models", name))
    return Operation(GET_MODEL, request, lambda answer: _read_model(answer.model), timeout)


def _versions(model: str, *, page_size: int = 0) -> Listing[ModelVersion]:
    """Iterate over the versions of a model, newest first.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL`.
    """
    parent = resource("models", model)

    def fetch(token: str) -> Operation[Page[ModelVersion]]:
        request = pb.ListModelVersionsRequest(parent=parent, page_size=page_size, page_token=token)
        return Operation(LIST_VERSIONS, request, _read_versions)

    return Listing(fetch)


def _publish(
    model: str, version: str, *, sha256: str, aliases: Sequence[str] = (), timeout: float | None = None
) -> Operation[ModelVersion]:
    """Tell the agent of a version that lies in the model store; doing so again changes nothing.

    It waits up to 5 s for the other agents; the answer's `replicas` say how far they are.

    Args:
        model: `digits` or `models/digits`.
        version: Id of the version in the store.
        sha256: What the model file must have, 64 lower-case hex digits.
        aliases: Aliases that point at the version once it is loaded.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `MODEL_VERSION_NOT_IN_STORE`.
        FailedPrecondition: Reason `MODEL_SIGNATURE_INVALID`, `MODEL_DIGEST_MISMATCH` or
            `MODEL_NOT_LOADABLE`.
        AlreadyExists: Reason `TOOL_NAME_TAKEN`.
    """
    request = pb.PublishModelVersionRequest(
        parent=resource("models", model), version=version, sha256=sha256, aliases=aliases
    )
    return Operation(
        PUBLISH,
        request,
        lambda answer: replace(_read_version(answer.model_version), replicas=read_replicas(answer.replicas)),
        timeout,
    )


def _set_alias(model: str, alias: str, version: str, *, timeout: float | None = None) -> Operation[Model]:
    """Point an alias at a version, in one step for all callers: promote forward or roll back.

    It waits up to 5 s for the other agents; the answer's `replicas` say how far they are.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_MODEL_VERSION`.
        Aborted: Reason `ALIAS_CONFLICT`: somebody else moved it at the same moment.
    """
    request = pb.SetAliasRequest(model=resource("models", model), alias=alias, version=version)
    return Operation(
        SET_ALIAS,
        request,
        lambda answer: replace(_read_model(answer.model), replicas=read_replicas(answer.replicas)),
        timeout,
    )


def _read_models(answer: pb.ListModelsResponse) -> Page[Model]:
    return Page([_read_model(model) for model in answer.models], answer.next_page_token)


def _read_model(model: pb.Model) -> Model:
    return Model(
        name=model.name,
        aliases=dict(model.aliases),
        tool=model.tool,
        update_time=moment(model, "update_time"),
    )


def _read_versions(answer: pb.ListModelVersionsResponse) -> Page[ModelVersion]:
    return Page([_read_version(version) for version in answer.model_versions], answer.next_page_token)


def _read_version(version: pb.ModelVersion) -> ModelVersion:
    return ModelVersion(
        name=version.name,
        sha256=version.sha256,
        size_bytes=version.size_bytes,
        format=version.format,
        provenance=unstruct(version.provenance),
        signer_key_id=version.signer_key_id,
        create_time=moment(version, "create_time"),
        aliases=tuple(version.aliases),
    )


class ModelsSurface:
    list = stream(_list)
    get = unary(_get)
    versions = stream(_versions)
    publish = unary(_publish)
    set_alias = unary(_set_alias)


class Models(ModelsSurface, SyncApi):
    """`Client.models`."""


class AsyncModels(ModelsSurface, AsyncApi):
    """`AsyncClient.models`."""
