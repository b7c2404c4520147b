"""inference.GRPCInferenceService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import grpc
import grpc.aio

from aegis_agent.adapters.models.tensors import to_raw
from aegis_agent.adapters.oip import messages as pb
from aegis_agent.adapters.oip.core import (
    ALL_BINARY,
    BINARY,
    Answer,
    Answered,
    Core,
    Input,
    Output,
    Request,
    flag,
)
from aegis_agent.adapters.oip.describe import Describer, check_repository
from aegis_agent.adapters.oip.repository import Repository
from aegis_agent.domain.call import Caller
from aegis_agent.domain.inferences import Inferences
from aegis_agent.domain.model_errors import InvalidInferenceRequest
from aegis_common.errors import AegisError
from aegis_common.rpc.call import current_call

IN_FLIGHT: Final = 16
"""Requests of one stream that are read and not answered yet; then the stream is read no further."""

CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_FINAL_WANTED: Final = "triton_enable_empty_final_response"
_FINAL: Final = "triton_final_response"
# The caller's own deadline must not pass before our answer, with its reason, is there.
_MARGIN_S: Final = 0.05
_MARGIN_SHARE: Final = 0.1
_log: Final = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer:
    """Translate only: no decisions about models."""

    service_name: Final = pb.SERVICE

    def __init__(self, inferences: Inferences, repository: Repository, *, version: str) -> None:
        self._core = Core(inferences)
        self._repository = repository
        self._describer = Describer(inferences, version=version)

    async def ServerLive(self, request: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=self._describer.server_ready())

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        return self._describer.server()

    async def ModelReady(self, request: Any, context: Context) -> Any:
        ready = self._describer.ready(request.name, request.version, tenant=_tenant())
        return pb.ModelReadyResponse(ready=ready)

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        return await self._describer.metadata(request.name, request.version, tenant=_tenant())

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        return await self._describer.config(request.name, request.version, tenant=_tenant())

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        return await self._describer.statistics(request.name, request.version, tenant=_tenant())

    async def ModelInfer(self, request: Any, context: Context) -> Any:
        return await self._infer(request, caller(), time_left())

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> None:
        await _Stream(self, caller(), context).run(requests)

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        return await self._describer.index(
            request.repository_name, only_ready=request.ready, tenant=_tenant()
        )

    async def RepositoryModelLoad(self, request: Any, context: Context) -> Any:
        check_repository(request.repository_name)
        if request.parameters:
            raise InvalidInferenceRequest.at("parameters", NO_PARAMETERS)
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Context) -> Any:
        check_repository(request.repository_name)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def streamed(self, request: Any, who: Caller) -> Any:
        """Return the answer to one request of a stream; its failure is an answer, too."""
        try:
            answer = await self._infer(request, who, None)
        except AegisError as error:
            return _failure(request, error.message, error.reason)
        except Exception:
            _log.exception("a request of a stream failed unexpectedly", extra={"model": request.model_name})
            return _failure(request, "internal error; the service's log has the details", "INTERNAL")
        if _FINAL_WANTED in request.parameters and request.parameters[_FINAL_WANTED].bool_param:
            answer.parameters[_FINAL].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=answer)

    async def _infer(self, request: Any, who: Caller, left: timedelta | None) -> Any:
        current_call().notes["model"] = request.model_name
        answer = await self._core.infer(
            request.model_name,
            request.model_version,
            functools.partial(_request, request),
            caller=who,
            time_left=left,
        )
        return _response(request, answer)


class _Stream:
    """One stream: requests run side by side, a few at a time; answers come in the order of the requests."""

    def __init__(self, servicer: InferenceServicer, who: Caller, context: Context) -> None:
        self._servicer = servicer
        self._caller = who
        self._context = context
        self._answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, requests: AsyncIterator[Any]) -> None:
        reading = asyncio.create_task(self._read(requests))
        try:
            while (answer := await self._answers.get()) is not None:
                await self._context.write(await answer)
                self._room.release()
            await reading
        finally:
            left = (reading, *self._running)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                task = asyncio.create_task(self._servicer.streamed(request, self._caller))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                self._answers.put_nowait(task)
                await self._room.acquire()
        finally:
            self._answers.put_nowait(None)


NO_PARAMETERS: Final = "a model comes from the signed store as it is: send no configuration and no files"


def add_to_server(servicer: InferenceServicer, server: grpc.aio.Server) -> None:
    """Serve *servicer*; what generated code does for services of ours."""
    handlers = {}
    for name, (request, response) in pb.method_types().items():
        streams = name == "ModelStreamInfer"
        make: Any = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        handlers[name] = make(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(pb.SERVICE, handlers),))


def caller() -> Caller:
    """Return for whom the current call is made."""
    principal = current_call().principal
    return Caller(tenant=principal.tenant, subject=principal.subject, roles=principal.roles)


def time_left() -> timedelta:
    """Return how long the current call may take, so that its answer is in time."""
    left = current_call().deadline - time.monotonic()
    return timedelta(seconds=max(0.0, left - min(_MARGIN_S, left * _MARGIN_SHARE)))


def _tenant() -> str:
    return current_call().principal.tenant


def parameters_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as Python values."""
    if not message:
        return {}
    found = {}
    for name, value in message.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(value, kind)
    return found


def _request(request: Any) -> Request:
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInferenceRequest.at(
            "raw_input_contents", f"it has {len(raw)} entries for {len(request.inputs)} inputs"
        )
    inputs = []
    for index, item in enumerate(request.inputs):
        if item.parameters and "shared_memory_region" in item.parameters:
            raise InvalidInferenceRequest.at(f"inputs[{index}]", "shared memory is not served")
        if raw:
            if item.HasField("contents"):
                raise InvalidInferenceRequest.at(
                    f"inputs[{index}]", "it has contents, and raw_input_contents is there, too"
                )
            inputs.append(Input(item.name, item.datatype, item.shape, raw[index]))
        else:
            inputs.append(Input(item.name, item.datatype, item.shape, None, _values(index, item)))
    return Request(
        inputs=inputs,
        outputs=[Output(item.name, parameters_of(item.parameters)) for item in request.outputs],
        parameters=parameters_of(request.parameters),
        id=request.id,
    )


def _values(index: int, item: Any) -> Sequence[Any]:
    wanted = CONTENTS.get(item.datatype)
    for field, _ in item.contents.ListFields():
        if field.name != wanted:
            what = f"a {item.datatype} tensor has no {field.name}"
            how = f"use {wanted}" if wanted else "send it in raw_input_contents"
            raise InvalidInferenceRequest.at(f"inputs[{index}].contents", f"{what}; {how}")
    return getattr(item.contents, wanted) if wanted else ()


def _response(request: Any, answer: Answer) -> Any:
    response = pb.ModelInferResponse(
        model_name=request.model_name, model_version=answer.version, id=request.id
    )
    binary = _is_binary(answer.request, answer.outputs)
    for item in answer.outputs:
        target = response.outputs.add(name=item.name, datatype=item.datatype, shape=item.array.shape)
        if binary:
            response.raw_output_contents.append(to_raw(item.datatype, item.array))
        else:
            _fill_contents(target, item)
    return response


def _is_binary(read: Request, outputs: Sequence[Answered]) -> bool:
    default = flag(read.parameters, ALL_BINARY, default=True)
    if not read.outputs:
        return default
    wanted = {flag(item.parameters, BINARY, default=default) for item in outputs}
    if len(wanted) > 1:
        raise InvalidInferenceRequest.at(
            "outputs",
            "some have binary_data and some have not: raw_output_contents holds all outputs or none",
        )
    return wanted != {False}


def _fill_contents(target: Any, item: Answered) -> None:
    if item.datatype not in CONTENTS:
        raise InvalidInferenceRequest.at(
            f"outputs.{item.name}", f"{item.datatype} travels raw only: leave binary_data at true"
        )
    flat = item.array.ravel().tolist()
    if item.datatype == "BYTES":
        flat = [value if isinstance(value, bytes) else str(value).encode() for value in flat]
    getattr(target.contents, CONTENTS[item.datatype]).extend(flat)


def _failure(request: Any, message: str, reason: str) -> Any:
    response = pb.ModelStreamInferResponse(error_message=message)
    answer = response.infer_response
    answer.model_name, answer.model_version, answer.id = (
        request.model_name,
        request.model_version,
        request.id,
    )
    answer.parameters["error_reason"].string_param = reason
    return response
