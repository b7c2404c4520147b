"""The REST form of the protocol: its paths on the agent's HTTP listener."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf import json_format
from google.rpc import status_pb2
from starlette.responses import JSONResponse, Response

from aegis_agent.adapters.http.errors import http_status
from aegis_agent.adapters.http.routes import Handler, Request, Route
from aegis_agent.adapters.http.weight import MostWeight, check_weight
from aegis_agent.adapters.oip.core import Core
from aegis_agent.adapters.oip.describe import Describer
from aegis_agent.adapters.oip.messages import SERVICE
from aegis_agent.adapters.oip.repository import Repository
from aegis_agent.adapters.oip.rest import (
    HEADER_LENGTH,
    json_size,
    plain,
    read_body,
    read_request,
    write_response,
)
from aegis_agent.adapters.oip.servicer import NO_PARAMETERS, caller, time_left
from aegis_agent.domain.inferences import Inferences
from aegis_agent.domain.model_errors import InvalidInferenceRequest
from aegis_agent.domain.offload import LARGE
from aegis_common.rpc.access import HttpBinding, MethodRule, method_table
from aegis_common.rpc.call import current_call

_LARGE_BODY_BYTES: Final = 64 << 10
_MOST: Final = MostWeight(containers=100_000, values=4_000_000)
"""What the JSON of tensors may hold: many numbers, not so many rows."""


class RestForm:
    """Translate only, as the servicer does."""

    def __init__(self, inferences: Inferences, repository: Repository, *, version: str) -> None:
        self._core = Core(inferences)
        self._repository = repository
        self._describer = Describer(inferences, version=version)

    def routes(self) -> list[Route]:
        """Return the routes that the method table names; each has the access rule of its method."""
        handlers: dict[str, Handler] = {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ServerMetadata": self.server,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.metadata,
            "ModelConfig": self.config,
            "ModelStatistics": self.statistics,
            "ModelInfer": self.infer,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }
        # A fixed segment sorts before a `{`: the counters of all models are none of a model named `stats`.
        return [
            Route(binding.verb.upper(), binding.path, rule.path, handlers[rule.method], on_error=_error)
            for binding, rule in sorted(_operations(), key=lambda found: found[0].path)
        ]

    async def server(self, _: Request) -> Response:
        return JSONResponse(plain(self._describer.server()))

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self._describer.server_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        name, version = _names(request)
        ready = self._describer.ready(name, version, tenant=_tenant())
        return JSONResponse({"name": name, "ready": ready}, status_code=200 if ready else 404)

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(plain(await self._describer.metadata(*_names(request), tenant=_tenant())))

    async def config(self, request: Request) -> Response:
        found = await self._describer.config(*_names(request), tenant=_tenant())
        return JSONResponse(plain(found.config))

    async def statistics(self, request: Request) -> Response:
        return JSONResponse(plain(await self._describer.statistics(*_names(request), tenant=_tenant())))

    async def infer(self, request: Request) -> Response:
        name, version = _names(request)
        current_call().notes["model"] = name
        body, length = await request.body(), request.headers.get(HEADER_LENGTH)
        await check_weight(body[: json_size(body, length)], _MOST)
        large = len(body) > _LARGE_BODY_BYTES
        found, raw = await asyncio.to_thread(read_body, body, length) if large else read_body(body, length)
        parse = functools.partial(read_request, found, raw)
        answer = await self._core.infer(name, version, parse, caller=caller(), time_left=time_left())
        many = sum(item.array.size for item in answer.outputs) > LARGE
        write = functools.partial(write_response, name, answer)
        content, json_bytes = await asyncio.to_thread(write) if many else write()
        if json_bytes is None:
            return Response(content, media_type="application/json")
        headers = {HEADER_LENGTH: str(json_bytes)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def index(self, request: Request) -> Response:
        body, _ = await _small_body(request)
        found = await self._describer.index("", only_ready=body.get("ready", False) is True, tenant=_tenant())
        return JSONResponse(plain(found)["models"])

    async def load(self, request: Request) -> Response:
        name, _ = _names(request)
        body, _raw = await _small_body(request)
        if body.get("parameters"):
            raise InvalidInferenceRequest.at("parameters", NO_PARAMETERS)
        await self._repository.load(name)
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        name, _ = _names(request)
        await self._repository.unload(name)
        return JSONResponse({})


def _operations() -> Iterator[tuple[HttpBinding, MethodRule]]:
    for rule in method_table().values():
        if rule.service == SERVICE:
            yield from ((binding, rule) for binding in rule.rest)


def _error(status: status_pb2.Status, _: Request) -> Response | None:
    """Return an error as the protocol has it, with `error`; beside it stands what all our errors have."""
    told = json_format.MessageToDict(status, always_print_fields_with_no_presence=True)
    return JSONResponse({"error": status.message, **told}, http_status(status))


async def _small_body(request: Request) -> tuple[Mapping[str, Any], memoryview]:
    body = await request.body()
    await check_weight(body)
    return read_body(body, None)


def _names(request: Request) -> tuple[str, str]:
    return request.parameters.get("model", ""), request.parameters.get("version", "")


def _tenant() -> str:
    return current_call().principal.tenant
