"""aegis.agent.v1.ModelService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc.aio
from google.api.httpbody_pb2 import HttpBody

from aegis.agent.v1 import model_service_pb2 as pb
from aegis.agent.v1 import model_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.models.messages import (
    check_message,
    media_type,
    model_id,
    model_message,
    version_ids,
    version_message,
)
from aegis_agent.adapters.models.uploads import ModelUploads
from aegis_agent.adapters.replicas.answers import everywhere
from aegis_agent.domain.artifacts import OffsetOutOfRange
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import Replicas
from aegis_common.auth.principal import Principal
from aegis_common.paging import page
from aegis_common.rpc.call import current_call
from aegis_common.store.errors import StoreUnavailable

_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Context = grpc.aio.ServicerContext[Any, Any]


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Translate only: no decisions about models.

    Args:
        models: The models.
        uploads: Model files that callers bring.
        replicas: Other agents, which follow changes.
    """

    def __init__(self, models: Models, uploads: ModelUploads, replicas: Replicas) -> None:
        self._models = models
        self._uploads = uploads
        self._replicas = replicas

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        tenant = _caller().tenant
        found, token = page(
            await self._models.models(tenant=tenant),
            key=lambda model: model.name,
            size=request.page_size,
            token=request.page_token,
            query=f"ListModels/{tenant}",
        )
        return pb.ListModelsResponse(models=map(model_message, found), next_page_token=token)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        found = await self._models.model(model_id(request.name), tenant=_caller().tenant)
        return pb.GetModelResponse(model=model_message(found))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        tenant, name = _caller().tenant, model_id(request.parent)
        found, token = page(
            self._models.versions(name, tenant=tenant),
            key=_newest_first,
            size=request.page_size,
            token=request.page_token,
            query=f"ListModelVersions/{tenant}/{name}",
        )
        aliases = await self._models.aliases(name, tenant=tenant)
        versions = [version_message(item, aliases) for item in found]
        return pb.ListModelVersionsResponse(model_versions=versions, next_page_token=token)

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> pb.GetModelVersionResponse:
        found = self._version(request.name)
        manifest = await self._models.manifest(found)
        return pb.GetModelVersionResponse(model_version=await self._message(found), manifest=manifest)

    async def DownloadModelVersion(
        self, request: pb.DownloadModelVersionRequest, context: Context
    ) -> AsyncIterator[pb.DownloadModelVersionResponse]:
        found = self._version(request.name)
        left = _left(request, found)
        if not left:
            yield pb.DownloadModelVersionResponse(content=HttpBody(content_type=media_type(found)))
            return
        kind = media_type(found)
        async for piece in self._models.stream(found, offset=request.offset, limit=left):
            left -= len(piece)
            yield pb.DownloadModelVersionResponse(content=HttpBody(content_type=kind, data=piece))
            kind = ""
        if left:
            raise StoreUnavailable(f"the model store ended {left} bytes too early", bytes_left=str(left))

    async def VerifyModelVersion(
        self, request: pb.VerifyModelVersionRequest, context: Context
    ) -> pb.VerifyModelVersionResponse:
        checks = await self._models.checks.verify(*version_ids(request.name), tenant=_caller().tenant)
        return pb.VerifyModelVersionResponse(checks=map(check_message, checks))

    async def PublishModelVersion(
        self, request: pb.PublishModelVersionRequest, context: Context
    ) -> pb.PublishModelVersionResponse:
        caller = _caller()
        done = await self._models.changes.publish(
            model_id(request.parent),
            request.version,
            sha256=request.sha256,
            aliases=request.aliases,
            tenant=caller.tenant,
            by=_who(caller),
        )
        return pb.PublishModelVersionResponse(
            model_version=await self._message(done.value),
            replicas=await everywhere(self._replicas, done.change),
        )

    async def ImportModelVersion(
        self, request: pb.ImportModelVersionRequest, context: Context
    ) -> pb.ImportModelVersionResponse:
        caller, sha256 = _caller(), request.artifact.removeprefix("artifacts/")

        async def content(version: ModelVersion) -> bytes:
            return await self._uploads.read(sha256, version)

        done = await self._models.changes.bring(
            model_id(request.parent),
            request.version,
            envelope=request.manifest,
            content=content,
            aliases=request.aliases,
            tenant=caller.tenant,
            by=_who(caller),
        )
        return pb.ImportModelVersionResponse(
            model_version=await self._message(done.value),
            replicas=await everywhere(self._replicas, done.change),
        )

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: Context
    ) -> pb.DeleteModelVersionResponse:
        caller = _caller()
        done = await self._models.changes.delete(
            *version_ids(request.name), tenant=caller.tenant, by=_who(caller)
        )
        return pb.DeleteModelVersionResponse(replicas=await everywhere(self._replicas, done.change))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        caller, name = _caller(), model_id(request.model)
        done = await self._models.moves.set_alias(
            name, request.alias, request.version, tenant=caller.tenant, by=_who(caller)
        )
        return pb.SetAliasResponse(
            model=model_message(done.value), replicas=await everywhere(self._replicas, done.change)
        )

    async def RollbackAlias(
        self, request: pb.RollbackAliasRequest, context: Context
    ) -> pb.RollbackAliasResponse:
        caller, name = _caller(), model_id(request.model)
        done = await self._models.moves.rollback(
            name, request.alias, from_version=request.from_version, tenant=caller.tenant, by=_who(caller)
        )
        return pb.RollbackAliasResponse(
            model=model_message(done.value.model),
            from_version=done.value.before,
            to_version=done.value.after,
            replicas=await everywhere(self._replicas, done.change),
        )

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        caller, name = _caller(), model_id(request.model)
        done = await self._models.moves.remove(name, request.alias, tenant=caller.tenant, by=_who(caller))
        return pb.DeleteAliasResponse(
            model=model_message(done.value), replicas=await everywhere(self._replicas, done.change)
        )

    def _version(self, name: str) -> ModelVersion:
        return self._models.version(*version_ids(name), tenant=_caller().tenant)

    async def _message(self, version: ModelVersion) -> pb.ModelVersion:
        aliases = await self._models.aliases(version.model, tenant=version.tenant)
        return version_message(version, aliases)


def _caller() -> Principal:
    return current_call().principal


def _who(caller: Principal) -> str:
    return caller.subject or caller.spiffe_id


def _newest_first(version: ModelVersion) -> str:
    left = (_END_OF_TIME - version.create_time) // _MICROSECOND
    return f"{left:020d}/{version.version}"


def _left(request: pb.DownloadModelVersionRequest, version: ModelVersion) -> int:
    """Return how many bytes are asked for.

    Raises:
        OffsetOutOfRange: The file is shorter than that.
    """
    left = version.size_bytes - request.offset
    if left < 0:
        raise OffsetOutOfRange(
            f"offset {request.offset} is beyond the end: {request.name} has {version.size_bytes} bytes",
            violations={"offset": f"at most {version.size_bytes}"},
            offset=str(request.offset),
            size_bytes=str(version.size_bytes),
        )
    return min(left, request.limit or left)
