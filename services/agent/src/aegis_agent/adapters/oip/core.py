"""What both forms of the protocol share: a request's tensors and parameters, and the answer's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from aegis_agent.adapters.models.tensors import BYTES, DTYPES, TensorError, from_raw, from_values
from aegis_agent.domain.call import Caller, Priority
from aegis_agent.domain.errors import InvalidToolInput, Violation
from aegis_agent.domain.inference import Signature, Tensors, TensorSpec
from aegis_agent.domain.inferences import Inference, Inferences, Wish
from aegis_agent.domain.model_errors import InvalidInferenceRequest
from aegis_agent.domain.offload import LARGE

Parameters = Mapping[str, bool | int | float | str]

CLASSIFICATION: Final = "classification"
BINARY: Final = "binary_data"
ALL_BINARY: Final = "binary_data_output"
_SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")
_SHARED_MEMORY: Final = "shared_memory_region"
_NOTHING: Final[Parameters] = MappingProxyType({})
_PRIORITIES: Final = {1: Priority.HIGH, 2: Priority.NORMAL}
_LARGE_TEXTS_BYTES: Final = 64 << 10


class Input(NamedTuple):
    """One input tensor of a request; either *raw* bytes or flat *values*."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    values: Sequence[Any] = ()

    @property
    def slow(self) -> bool:
        """Whether reading it would keep the event loop busy."""
        if self.raw is None:
            return len(self.values) > LARGE
        return self.datatype == BYTES and len(self.raw) > _LARGE_TEXTS_BYTES


class Output(NamedTuple):
    """One output that is asked for."""

    name: str
    parameters: Parameters = _NOTHING


class Request(NamedTuple):
    """What one inference asks for."""

    inputs: Sequence[Input]
    outputs: Sequence[Output] = ()
    parameters: Parameters = _NOTHING
    id: str = ""


class Answered(NamedTuple):
    """One output of an answer."""

    name: str
    datatype: str
    array: Any
    parameters: Parameters


class Answer(NamedTuple):
    """What came of one request, and the version that answered it."""

    request: Request
    version: str
    outputs: Sequence[Answered]


class Core:
    """Runs requests."""

    def __init__(self, inferences: Inferences) -> None:
        self.inferences: Final = inferences

    async def infer(
        self,
        model: str,
        version: str,
        parse: Callable[[], Request],
        *,
        caller: Caller,
        time_left: timedelta | None,
    ) -> Answer:
        """Run one request.

        Args:
            model: Name of the model.
            version: Id of a version, or empty for the one that answers.
            parse: Gives the request; a model counts those that it refuses, too.
            caller: For whom.
            time_left: Longest time that it may take; None means the model's default.

        Raises:
            InvalidInferenceRequest: It breaks the protocol, or asks for what is not served.
            AegisError: See `Inferences.infer`.
        """
        request: Request

        async def read(signature: Signature) -> tuple[Tensors, Wish]:
            nonlocal request
            request = parse()
            wish = wish_of(request.parameters, time_left)
            if any(item.slow for item in request.inputs):
                return await asyncio.to_thread(_tensors, model, request, signature), wish
            return _tensors(model, request, signature), wish

        done = await self.inferences.infer(model, version, read, caller=caller)
        return Answer(request, done.version, _outputs(request, done))


def _outputs(request: Request, done: Inference) -> list[Answered]:
    arrays = done.run.outputs
    if not request.outputs:
        return [
            Answered(spec.name, spec.datatype, arrays[spec.name], _NOTHING) for spec in done.signature.outputs
        ]
    specs = {spec.name: spec for spec in done.signature.outputs}
    return [
        _answered(specs[item.name], arrays[item.name], item.parameters, done.labels)
        for item in request.outputs
    ]


def flag(parameters: Parameters, name: str, *, default: bool, path: str = "parameters") -> bool:
    """Return a parameter that is true or false.

    Raises:
        InvalidInferenceRequest: It is neither.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInferenceRequest.at(f"{path}.{name}", f"{value!r} is neither true nor false")
    return value


def wish_of(parameters: Parameters, time_left: timedelta | None) -> Wish:
    """Return what the parameters of a request ask for.

    Raises:
        InvalidInferenceRequest: One is not what it should be, or asks for what is not served.
    """
    if not parameters:
        return Wish(time_left=time_left)
    for name in _SEQUENCE:
        if parameters.get(name):
            raise InvalidInferenceRequest.at(
                f"parameters.{name}", "models here keep no state between requests"
            )
    timeout = _number(parameters, "timeout")
    priority = _number(parameters, "priority")
    return Wish(
        time_left=time_left,
        queue_timeout=timedelta(microseconds=timeout) if timeout else None,
        priority=_PRIORITIES.get(priority, Priority.LOW) if priority else None,
    )


def _number(parameters: Parameters, name: str) -> int:
    value = parameters.get(name, 0)
    text = value.isascii() and value.isdecimal() if isinstance(value, str) else False
    number = int(value) if text and len(str(value)) < 20 else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 53:
        raise InvalidInferenceRequest.at(f"parameters.{name}", f"{value!r} is no whole number from 0 up")
    return number


def _tensors(model: str, request: Request, signature: Signature) -> Tensors:
    given = {item.name: item for item in request.inputs}
    specs = {spec.name: spec for spec in signature.inputs}
    if len(given) != len(request.inputs):
        raise InvalidInferenceRequest.at("inputs", "two of them have the same name")
    if given.keys() != specs.keys():
        raise InvalidToolInput.of(model, _other_names(specs, given))
    _check_outputs(request, signature)
    return {name: _tensor(model, spec, given[name]) for name, spec in specs.items()}


def _other_names(specs: Mapping[str, object], given: Mapping[str, object]) -> list[Violation]:
    faults = [Violation(name, "required", "is required and missing") for name in specs if name not in given]
    return faults + [
        Violation(name, "additionalProperties", f"is no input of this model; it takes {', '.join(specs)}")
        for name in given
        if name not in specs
    ]


def _tensor(model: str, spec: TensorSpec, given: Input) -> Any:
    try:
        return _read(spec, given)
    except TensorError as error:
        raise InvalidToolInput.of(model, [error.violation]) from error


def _read(spec: TensorSpec, given: Input) -> Any:
    if given.datatype != spec.datatype:
        told = given.datatype or "of no type"
        raise TensorError(spec.name, "datatype", f"it is {told}; the model takes {spec.datatype}")
    if given.raw is not None:
        return from_raw(spec, given.shape, given.raw)
    return from_values(spec, given.shape, given.values)


def _check_outputs(request: Request, signature: Signature) -> None:
    """Check the outputs that are asked for before anything is run."""
    known = [spec.name for spec in signature.outputs]
    seen: set[str] = set()
    for index, item in enumerate(request.outputs):
        if item.name not in known:
            raise InvalidInferenceRequest.at(
                f"outputs[{index}]", f"{item.name!r} is no output of this model; it gives {', '.join(known)}"
            )
        if item.name in seen:
            raise InvalidInferenceRequest.at(f"outputs[{index}]", f"{item.name!r} is asked for twice")
        if _SHARED_MEMORY in item.parameters:
            raise InvalidInferenceRequest.at(f"outputs[{index}]", "shared memory is not served")
        _check_classification(f"outputs[{index}].parameters.{CLASSIFICATION}", item)
        flag(item.parameters, BINARY, default=True, path=f"outputs[{index}].parameters")
        seen.add(item.name)
    flag(request.parameters, ALL_BINARY, default=True)


def _check_classification(path: str, item: Output) -> None:
    count = item.parameters.get(CLASSIFICATION, 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidInferenceRequest.at(path, f"{count!r} is no whole number from 0 up")


def _answered(spec: TensorSpec, array: Any, parameters: Parameters, labels: Sequence[str]) -> Answered:
    count = int(parameters.get(CLASSIFICATION, 0))
    if not count:
        return Answered(spec.name, spec.datatype, array, parameters)
    return Answered(spec.name, BYTES, _classes(spec, array, count, labels), parameters)


def _classes(spec: TensorSpec, array: Any, count: int, labels: Sequence[str]) -> Any:
    """Return the *count* best classes along the last dimension, each as `score:index:label`."""
    if not array.ndim or DTYPES[spec.datatype].kind not in "fiu":
        raise InvalidInferenceRequest.at(
            f"outputs.{spec.name}.{CLASSIFICATION}", "the output is no row of scores"
        )
    best = np.argsort(-array.astype(np.float64), axis=-1, kind="stable")[..., :count]
    scores = np.take_along_axis(array, best, axis=-1)
    texts = np.empty(best.shape, dtype=object)
    for place in np.ndindex(best.shape):
        index = int(best[place])
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[place] = f"{float(scores[place]):f}:{index}{label}"
    return texts
