"""aegis.agent.v1.ModelService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc.aio

from aegis.agent.v1 import model_service_pb2 as pb
from aegis.agent.v1 import model_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.parts import to_struct
from aegis_agent.adapters.replicas.answers import everywhere
from aegis_agent.domain.model import Model, ModelVersion
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import Replicas
from aegis_common.auth.principal import Principal
from aegis_common.paging import page
from aegis_common.rpc.call import current_call

_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Context = grpc.aio.ServicerContext[Any, Any]


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Translate only: no decisions about models."""

    def __init__(self, models: Models, replicas: Replicas) -> None:
        self._models = models
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
        return pb.ListModelsResponse(models=[_model(item) for item in found], next_page_token=token)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        found = await self._models.model(_id(request.name), tenant=_caller().tenant)
        return pb.GetModelResponse(model=_model(found))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        tenant, name = _caller().tenant, _id(request.parent)
        found, token = page(
            self._models.versions(name, tenant=tenant),
            key=_newest_first,
            size=request.page_size,
            token=request.page_token,
            query=f"ListModelVersions/{tenant}/{name}",
        )
        aliases = await self._models.aliases(name, tenant=tenant)
        versions = [_version(item, aliases) for item in found]
        return pb.ListModelVersionsResponse(model_versions=versions, next_page_token=token)

    async def PublishModelVersion(
        self, request: pb.PublishModelVersionRequest, context: Context
    ) -> pb.PublishModelVersionResponse:
        caller, name = _caller(), _id(request.parent)
        done = await self._models.changes.publish(
            name,
            request.version,
            sha256=request.sha256,
            aliases=request.aliases,
            tenant=caller.tenant,
            by=_who(caller),
        )
        aliases = await self._models.aliases(name, tenant=caller.tenant)
        return pb.PublishModelVersionResponse(
            model_version=_version(done.value, aliases),
            replicas=await everywhere(self._replicas, done.change),
        )

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        caller, name = _caller(), _id(request.model)
        done = await self._models.changes.set_alias(
            name, request.alias, request.version, tenant=caller.tenant, by=_who(caller)
        )
        return pb.SetAliasResponse(
            model=_model(done.value), replicas=await everywhere(self._replicas, done.change)
        )


def _caller() -> Principal:
    return current_call().principal


def _who(caller: Principal) -> str:
    return caller.subject or caller.spiffe_id


def _id(name: str) -> str:
    return name.removeprefix("models/")


def _newest_first(version: ModelVersion) -> str:
    left = (_END_OF_TIME - version.create_time) // _MICROSECOND
    return f"{left:020d}/{version.version}"


def _model(model: Model) -> pb.Model:
    message = pb.Model(
        name=f"models/{model.name}",
        aliases=dict(model.aliases),
        tool=f"tools/{model.name}" if model.served else "",
    )
    message.update_time.FromDatetime(model.update_time)
    return message


def _version(version: ModelVersion, aliases: Mapping[str, str]) -> pb.ModelVersion:
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
