"""How calls of ModelService look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aegis.agent.v1 import model_service_pb2 as pb
from aegis_client.core.form import check_form
from aegis_client.core.operation import Listing, Operation, Page, Step, Watch, method
from aegis_client.core.values import resource
from aegis_client.errors import UsageError
from aegis_client.model_forms import (
    Model,
    ModelVerification,
    ModelVersion,
    Rollback,
    Signed,
    read_changed_model,
    read_changed_version,
    read_model,
    read_models,
    read_rollback,
    read_signed,
    read_verification,
    read_version,
    read_versions,
)
from aegis_client.replicas import ReplicaStatus, read_replicas

PRODUCTION: Final = "production"
"""The alias that a model's tool serves."""

LIST: Final = method(pb, "ModelService", "ListModels", pb.ListModelsResponse)
GET: Final = method(pb, "ModelService", "GetModel", pb.GetModelResponse)
LIST_VERSIONS: Final = method(pb, "ModelService", "ListModelVersions", pb.ListModelVersionsResponse)
GET_VERSION: Final = method(pb, "ModelService", "GetModelVersion", pb.GetModelVersionResponse)
DOWNLOAD: Final = method(pb, "ModelService", "DownloadModelVersion", pb.DownloadModelVersionResponse)
VERIFY: Final = method(pb, "ModelService", "VerifyModelVersion", pb.VerifyModelVersionResponse)
PUBLISH: Final = method(pb, "ModelService", "PublishModelVersion", pb.PublishModelVersionResponse)
IMPORT: Final = method(pb, "ModelService", "ImportModelVersion", pb.ImportModelVersionResponse)
DELETE: Final = method(pb, "ModelService", "DeleteModelVersion", pb.DeleteModelVersionResponse)
SET_ALIAS: Final = method(pb, "ModelService", "SetAlias", pb.SetAliasResponse)
ROLLBACK: Final = method(pb, "ModelService", "RollbackAlias", pb.RollbackAliasResponse)
DELETE_ALIAS: Final = method(pb, "ModelService", "DeleteAlias", pb.DeleteAliasResponse)


def list_models(*, page_size: int = 0) -> Listing[Model]:
    """Iterate over the caller's models, ordered by name."""

    def fetch(token: str) -> Operation[Page[Model]]:
        request = pb.ListModelsRequest(page_size=page_size, page_token=token)
        return Operation(LIST, request, read_models)

    return Listing(fetch)


def get(name: str, *, timeout: float | None = None) -> Operation[Model]:
    """Return one model with its aliases; `digits` and `models/digits` mean the same.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL`.
    """
    request = pb.GetModelRequest(name=resource("models", name))
    return Operation(GET, request, lambda answer: read_model(answer.model), timeout)


def versions(model: str, *, page_size: int = 0) -> Listing[ModelVersion]:
    """Iterate over the versions of a model, newest first.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL`.
    """
    parent = resource("models", model)

    def fetch(token: str) -> Operation[Page[ModelVersion]]:
        request = pb.ListModelVersionsRequest(parent=parent, page_size=page_size, page_token=token)
        return Operation(LIST_VERSIONS, request, read_versions)

    return Listing(fetch)


def describe(model: str, version: str, *, timeout: float | None = None) -> Operation[ModelVersion]:
    """Return one version of a model, by its id.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_MODEL_VERSION`.
    """
    request = pb.GetModelVersionRequest(name=version_name(model, version))
    return Operation(GET_VERSION, request, lambda answer: read_version(answer.model_version), timeout)


def signed(model: str, version: str) -> Operation[Signed]:
    return Operation(GET_VERSION, pb.GetModelVersionRequest(name=version_name(model, version)), read_signed)


def download(version: ModelVersion) -> Watch[bytes]:
    """Return the file of a version; a break is made up for from where it was."""
    state = {"offset": 0}
    start = "0"

    def request(resume_token: str) -> pb.DownloadModelVersionRequest:
        return pb.DownloadModelVersionRequest(name=version.name, offset=int(resume_token))

    def read(message: pb.DownloadModelVersionResponse) -> Step[bytes]:
        data = message.content.data
        state["offset"] += len(data)
        # an empty piece is all that a file has which is shorter than it should be
        last = not data or state["offset"] >= version.size_bytes
        return Step(event=data, resume_token=str(state["offset"]), last=last)

    return Watch(DOWNLOAD, request, read, resume_token=start)


def verify(model: str, version: str, *, timeout: float | None = None) -> Operation[ModelVerification]:
    """Have a version checked again, from its bytes in the store on: signature, digest, loading, example.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_MODEL_VERSION`.
    """
    request = pb.VerifyModelVersionRequest(name=version_name(model, version))
    return Operation(VERIFY, request, read_verification, timeout)


def publish(
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
    return Operation(PUBLISH, request, read_changed_version, timeout)


def import_version(
    model: str,
    version: str,
    *,
    sha256: str,
    manifest: bytes,
    aliases: Sequence[str],
    timeout: float | None,
) -> Operation[ModelVersion]:
    """Return the call that makes a version of the artifact with that digest.

    Raises:
        UsageError: A name has a form that no name has.
    """
    request = pb.ImportModelVersionRequest(
        parent=resource("models", model),
        version=version,
        artifact=f"artifacts/{sha256}",
        manifest=manifest,
        aliases=aliases,
    )
    check_form(request)
    return Operation(IMPORT, request, read_changed_version, timeout)


def delete(model: str, version: str, *, timeout: float | None = None) -> Operation[tuple[ReplicaStatus, ...]]:
    """Delete a version, for good: its id is never used again; return how far each agent is with that.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_MODEL_VERSION`.
        FailedPrecondition: Reason `MODEL_VERSION_IN_USE`: an alias points at it.
    """
    request = pb.DeleteModelVersionRequest(name=version_name(model, version))
    return Operation(DELETE, request, lambda answer: read_replicas(answer.replicas), timeout)


def promote(
    model: str, version: str, alias: str = PRODUCTION, *, timeout: float | None = None
) -> Operation[Model]:
    """Point an alias at a version, in one step for all callers; `production` is what the tool serves.

    It waits up to 5 s for the other agents; the answer's `replicas` say how far they are.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_MODEL_VERSION`.
        Aborted: Reason `ALIAS_CONFLICT`: somebody else moved it at the same moment.
    """
    request = pb.SetAliasRequest(model=resource("models", model), alias=alias, version=version)
    return Operation(SET_ALIAS, request, read_changed_model, timeout)


def rollback(
    model: str, alias: str = PRODUCTION, *, from_version: str = "", timeout: float | None = None
) -> Operation[Rollback]:
    """Point an alias at the version before; once more is one version further back.

    Args:
        model: `digits` or `models/digits`.
        alias: The alias to move.
        from_version: Where the alias is, as far as the caller knows; elsewhere nothing is moved.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_ALIAS`.
        FailedPrecondition: Reason `NO_EARLIER_VERSION`.
        Aborted: Reason `ALIAS_CONFLICT`: it is not at *from_version*.
    """
    request = pb.RollbackAliasRequest(model=resource("models", model), alias=alias, from_version=from_version)
    return Operation(ROLLBACK, request, read_rollback, timeout)


def delete_alias(model: str, alias: str, *, timeout: float | None = None) -> Operation[Model]:
    """Remove an alias; without the alias `production` the model's tool is gone.

    Raises:
        NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_ALIAS`.
        Aborted: Reason `ALIAS_CONFLICT`: somebody else moved it at the same moment.
    """
    request = pb.DeleteAliasRequest(model=resource("models", model), alias=alias)
    return Operation(DELETE_ALIAS, request, read_changed_model, timeout)


def version_name(model: str, version: str) -> str:
    """Return `models/{model}/versions/{version}`.

    Raises:
        UsageError: One of the two is no name.
    """
    if not version or "/" in version:
        raise UsageError(f"{version!r} is not the id of a version; see the list of versions")
    return f"{resource('models', model)}/versions/{version}"
