"""Models and versions as messages of aegis.agent.v1.ModelService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aegis.agent.v1 import model_service_pb2 as pb
from aegis_agent.adapters.parts import to_struct
from aegis_agent.domain.model import Model, ModelVersion
from aegis_agent.domain.model_checks import Check, CheckKind
from aegis_common.store.bundle import FORMAT_BUNDLE

_KINDS: Final = {
    CheckKind.SIGNATURE: pb.VerifyModelVersionResponse.Check.KIND_SIGNATURE,
    CheckKind.DIGEST: pb.VerifyModelVersionResponse.Check.KIND_DIGEST,
    CheckKind.LOAD: pb.VerifyModelVersionResponse.Check.KIND_LOAD,
    CheckKind.EXAMPLE: pb.VerifyModelVersionResponse.Check.KIND_EXAMPLE,
}


def model_id(name: str) -> str:
    """Return the id in `models/{model}`."""
    return name.removeprefix("models/")


def version_ids(name: str) -> tuple[str, str]:
    """Return the ids in `models/{model}/versions/{version}`."""
    _, model, _, version = name.split("/")
    return model, version


def model_message(model: Model) -> pb.Model:
    message = pb.Model(
        name=f"models/{model.name}",
        aliases=dict(model.aliases),
        tool=f"tools/{model.name}" if model.served else "",
    )
    message.update_time.FromDatetime(model.update_time)
    return message


def version_message(version: ModelVersion, aliases: Mapping[str, str]) -> pb.ModelVersion:
    """Return the version, with those of *aliases* (name to version id) that point at it."""
    message = pb.ModelVersion(
        name=f"models/{version.model}/versions/{version.version}",
        sha256=version.sha256,
        size_bytes=version.size_bytes,
        format=version.format,
        provenance=to_struct(version.provenance),
        signer_key_id=version.signer_key_id,
        distrusted=version.distrusted,
        aliases=sorted(name for name, target in aliases.items() if target == version.version),
    )
    message.create_time.FromDatetime(version.create_time)
    return message


def check_message(check: Check) -> pb.VerifyModelVersionResponse.Check:
    return pb.VerifyModelVersionResponse.Check(
        kind=_KINDS[check.kind], passed=check.passed, message=check.message, reason=check.reason
    )


def media_type(version: ModelVersion) -> str:
    """Return what a version's file is to HTTP."""
    return "application/zip" if version.format == FORMAT_BUNDLE else "application/octet-stream"
