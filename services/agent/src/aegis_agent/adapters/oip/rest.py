"""The REST form's bodies: JSON, with raw bytes behind it where a tensor says so."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from aegis_agent.adapters.models.tensors import BYTES, to_raw
from aegis_agent.adapters.oip.core import ALL_BINARY, BINARY, Answer, Answered, Input, Output, Request, flag
from aegis_agent.domain.errors import ToolFailed
from aegis_agent.domain.model_errors import InvalidInferenceRequest
from aegis_common.rpc.limits import clipped

HEADER_LENGTH: Final = "inference-header-content-length"
"""Length of the JSON at the begin of a body that has raw bytes behind it, in bytes."""

_SIZE: Final = "binary_data_size"
_MAX_DIGITS: Final = 20
_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_SCALARS: Final = (bool, int, float, str)


def read_body(body: bytes, header_length: str | None) -> tuple[Mapping[str, Any], memoryview]:
    """Return the JSON object of a body, and the raw bytes behind it.

    Args:
        body: The body.
        header_length: Value of the header `Inference-Header-Content-Length`, or None.

    Raises:
        InvalidInferenceRequest: The length is none, or there is no JSON object.
    """
    size = json_size(body, header_length)
    try:
        found = json.loads(body[:size].decode() or "{}", parse_constant=_no_constant, parse_float=_finite)
        if _SURROGATE.search(body, 0, size):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInferenceRequest.at("body", f"it is no JSON: {_why(error)}") from error
    return _object("body", found), memoryview(body)[size:]


def json_size(body: bytes, header_length: str | None) -> int:
    """Return how many bytes of a body are JSON; arguments and errors as of `read_body`."""
    return len(body) if header_length is None else _length(header_length, len(body))


def _length(text: str, limit: int) -> int:
    if text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS and int(text) <= limit:
        return int(text)
    raise InvalidInferenceRequest.at(
        HEADER_LENGTH, f"{clipped(text, 64)!r} is no number of bytes up to {limit}, the body's size"
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON; send the tensor as raw bytes")


def _finite(text: str) -> float:
    number = float(text)
    if math.isfinite(number):
        return number
    raise ValueError(f"{clipped(text, 64)} is larger than any number that can be held")


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "it has half a surrogate pair, which is no character"
    return str(error)


def read_request(body: Mapping[str, Any], raw: memoryview) -> Request:
    """Return the request that a body holds.

    Raises:
        InvalidInferenceRequest: A field is missing or of another type, or the raw bytes do not add up.
    """
    inputs, at = [], 0
    for index, item in enumerate(_list("inputs", body.get("inputs"))):
        tensor, at = _input(f"inputs[{index}]", _object(f"inputs[{index}]", item), raw, at)
        inputs.append(tensor)
    if at != len(raw):
        raise InvalidInferenceRequest.at(
            "body", f"{len(raw)} raw bytes follow the JSON; its inputs name {at}"
        )
    outputs = [
        _output(f"outputs[{index}]", item)
        for index, item in enumerate(_list("outputs", body.get("outputs", [])))
    ]
    return Request(
        inputs=inputs,
        outputs=outputs,
        parameters=_parameters("parameters", body.get("parameters", {})),
        id=_text("id", body.get("id", "")),
    )


def write_response(model: str, answer: Answer) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON when raw bytes follow it.

    Raises:
        ToolFailed: An output that is asked for as JSON holds NaN or infinity.
    """
    request = answer.request
    default = flag(request.parameters, ALL_BINARY, default=False)
    raw: list[bytes] = []
    told = []
    for item in answer.outputs:
        entry: dict[str, Any] = {
            "name": item.name,
            "datatype": item.datatype,
            "shape": list(item.array.shape),
        }
        if flag(item.parameters, BINARY, default=default):
            data = to_raw(item.datatype, item.array)
            entry["parameters"] = {_SIZE: len(data)}
            raw.append(data)
        else:
            entry["data"] = _data(model, item)
        told.append(entry)
    body: dict[str, Any] = {"model_name": model, "model_version": answer.version, "outputs": told}
    if request.id:
        body["id"] = request.id
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return (text, None) if not raw else (b"".join((text, *raw)), len(text))


def plain(message: Any) -> dict[str, Any]:
    """Return a protobuf message as JSON values with its field names; numbers stay numbers."""
    return {field.name: _plain_field(field, getattr(message, field.name)) for field in _shown(message)}


def _shown(message: Any) -> Iterator[FieldDescriptor]:
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            yield field


def _plain_field(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _plain_value(inner, value[key]) for key in value}
    if field.is_repeated:
        return [_plain_value(field, item) for item in value]
    return _plain_value(field, value)


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


def _input(path: str, item: Mapping[str, Any], raw: memoryview, at: int) -> tuple[Input, int]:
    parameters = _parameters(f"{path}.parameters", item.get("parameters", {}))
    if "shared_memory_region" in parameters:
        raise InvalidInferenceRequest.at(path, "shared memory is not served")
    name = _text(f"{path}.name", item.get("name"))
    datatype = _text(f"{path}.datatype", item.get("datatype"))
    shape = _list(f"{path}.shape", item.get("shape"))
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise InvalidInferenceRequest.at(f"{path}.shape", "its sizes are not all whole numbers")
    size = parameters.get(_SIZE)
    if size is None:
        data = _list(f"{path}.data", item.get("data"))
        return Input(name, datatype, shape, None, list(_flat(data)) if datatype == BYTES else data), at
    if "data" in item:
        raise InvalidInferenceRequest.at(path, f"it has data and {_SIZE}; give one of them")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw) - at:
        raise InvalidInferenceRequest.at(
            f"{path}.parameters.{_SIZE}",
            f"{size!r} is no number of bytes up to {len(raw) - at}, which are left",
        )
    piece = raw[at : at + size]
    if datatype != BYTES:  # the next one may begin anywhere; onnxruntime wants aligned numbers
        piece = memoryview(bytes(piece))
    return Input(name, datatype, shape, piece), at + size


def _output(path: str, item: Any) -> Output:
    item = _object(path, item)
    return Output(
        _text(f"{path}.name", item.get("name")),
        _parameters(f"{path}.parameters", item.get("parameters", {})),
    )


def _data(model: str, item: Answered) -> list[Any]:
    if item.array.dtype.kind == "f" and not np.isfinite(item.array).all():
        raise ToolFailed(
            f"model {model!r}: output {item.name!r} holds NaN or infinity, which JSON cannot carry; ask for "
            "it with binary_data",
            tool=model,
            error="ArithmeticError",
        )
    flat: list[Any] = item.array.ravel().tolist()
    return flat


def _flat(data: Sequence[Any]) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list):
            yield from _flat(value)
        elif isinstance(value, str):
            yield value
        else:
            raise InvalidInferenceRequest.at(
                "inputs", f"{value!r} is no text, which a BYTES tensor holds in JSON"
            )


def _object(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInferenceRequest.at(path, "is no JSON object")
    return value


def _list(path: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInferenceRequest.at(path, "is missing" if value is None else "is no JSON array")
    return value


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInferenceRequest.at(path, "is missing" if value is None else "is no text")
    return value


def _parameters(path: str, value: Any) -> dict[str, Any]:
    found = _object(path, value)
    for name, item in found.items():
        if not isinstance(item, _SCALARS):
            raise InvalidInferenceRequest.at(f"{path}.{name}", "is no text, number or boolean")
    return dict(found)
