"""Tensors: numpy arrays out of raw bytes, typed values and JSON, and back; checked against the model."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.domain.errors import Violation
from aegis_agent.domain.inference import TensorSpec

BYTES: Final = "BYTES"
DTYPES: Final[dict[str, Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    BYTES: np.dtype(object),
}
"""Names of the Open Inference Protocol; BF16 has no numpy type."""

_ACCEPTS: Final = {"f": "iuf", "i": "iu", "u": "iu", "b": "b", "O": "U"}
_ELEMENTS: Final = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}
_MAX_RANK: Final = 64
"""Most dimensions that numpy knows."""
_LENGTH: Final = struct.Struct("<I")


class TensorError(ValueError):
    """A tensor that does not fit, or that cannot be read.

    Attributes:
        violation: Where, which rule, and what to do about it.
    """

    def __init__(self, name: str, rule: str, message: str) -> None:
        super().__init__(message)
        self.violation: Final = Violation(name, rule, message)


def element(datatype: str) -> str:
    """Return the JSON type of an element."""
    return _ELEMENTS[DTYPES[datatype].kind]


def type_name(datatype: str) -> str:
    """Return what numpy calls an element, for example `float32`."""
    return "str" if datatype == BYTES else str(DTYPES[datatype].name)


def check(spec: TensorSpec, array: Any) -> None:
    """Check an array against what the model takes.

    Raises:
        TensorError: Its shape does not fit; its type was seen to before.
    """
    shape = array.shape
    if shape == spec.shape and array.size:
        return
    fits = len(shape) == len(spec.shape) and all(
        size is None or size == got for size, got in zip(spec.shape, shape, strict=True)
    )
    if not fits or not array.size:
        raise TensorError(
            spec.name, "shape", f"its shape is {_text(shape)}; the model takes {_text(spec.shape)}"
        )


def from_raw(spec: TensorSpec, shape: Sequence[int], data: bytes | memoryview) -> Any:
    """Return an array over little-endian, row-major *data* that fits what the model takes, without a copy.

    Raises:
        TensorError: It does not fit, shape and size do not agree, or *data* is no sequence of texts.
    """
    array = decode(spec, shape, data)
    check(spec, array)
    return array


def decode(spec: TensorSpec, shape: Sequence[int], data: bytes | memoryview) -> Any:
    """Return an array over little-endian, row-major *data*, of any shape; BYTES have a length before each.

    Raises:
        TensorError: Shape and size do not agree, or *data* is no sequence of texts.
    """
    dtype = DTYPES[spec.datatype]
    if spec.datatype == BYTES:
        array = np.empty(0, dtype=object) if not data else _objects(list(_texts(spec.name, data)))
    elif len(data) % dtype.itemsize:
        raise TensorError(
            spec.name,
            "size",
            f"{len(data)} bytes are no whole number of {spec.datatype} elements of {dtype.itemsize}",
        )
    else:
        array = np.frombuffer(data, dtype)
    return shaped(spec, shape, array)


def from_values(spec: TensorSpec, shape: Sequence[int], values: Any) -> Any:
    """Return an array of a flat sequence of Python values.

    Raises:
        TensorError: There are too many or too few, or one does not fit the type.
    """
    if spec.datatype == BYTES:
        texts = [_text_of(spec.name, item) if isinstance(item, bytes) else item for item in values]
        flat = _objects(texts)
    else:
        flat = _cast(spec, _asarray(spec, values))
    array = shaped(spec, shape, flat)
    check(spec, array)
    return array


def from_nested(spec: TensorSpec, value: Any) -> Any:
    """Return an array of nested lists, as JSON holds them.

    Raises:
        TensorError: They do not fit what the model takes.
    """
    array = _asarray(spec, value)
    if array.dtype.kind not in _ACCEPTS[DTYPES[spec.datatype].kind]:
        raise TensorError(spec.name, "type", f"its elements are not all {element(spec.datatype)}s")
    check(spec, array)
    return _cast(spec, array)


def shaped(spec: TensorSpec, shape: Sequence[int], array: Any) -> Any:
    """Return *array* in *shape*.

    Raises:
        TensorError: The number of elements does not agree.
    """
    wanted = tuple(shape)
    if len(wanted) > _MAX_RANK:
        raise TensorError(spec.name, "shape", f"it has {len(wanted)} dimensions; at most {_MAX_RANK} can be")
    if min(wanted, default=0) < 0:
        raise TensorError(spec.name, "shape", f"its shape {_text(wanted)} has a negative size")
    if math.prod(wanted) != array.size:
        raise TensorError(
            spec.name, "size", f"it has {array.size} elements; its shape {_text(wanted)} says otherwise"
        )
    return array.reshape(wanted)


def to_raw(datatype: str, array: Any) -> bytes:
    """Return an array's elements, little-endian and row-major; BYTES with a length before each."""
    if datatype != BYTES:
        return bytes(array.tobytes())
    pieces: list[bytes] = []
    for item in array.ravel():
        data = item if isinstance(item, bytes) else str(item).encode()
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def _asarray(spec: TensorSpec, values: Any) -> Any:
    try:
        array = np.asarray(values)
        wide = array.dtype.kind == "O" or (array.dtype.kind == "f" and DTYPES[spec.datatype].kind in "iu")
        return _of_wide(spec, np.asarray(values, dtype=object)) if wide and array.size else array
    except (ValueError, RecursionError) as error:
        raise TensorError(spec.name, "shape", "its rows differ in length") from error


def _of_wide(spec: TensorSpec, array: Any) -> Any:
    """Return an array of Python numbers as one of the model's own type.

    numpy takes whole numbers beyond 63 bits for floats, which are not exact, or for anything.
    """
    dtype = DTYPES[spec.datatype]
    kinds = {int} if dtype.kind in "iu" else {int, float}
    if dtype.kind not in "fiu" or not set(map(type, array.flat)) <= kinds:
        return array
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(np.float64)
    if min(array.flat) < limits.min or max(array.flat) > limits.max:
        raise _out_of_range(spec)
    return array.astype(np.float64 if dtype.kind == "f" else dtype)


def _out_of_range(spec: TensorSpec) -> TensorError:
    return TensorError(spec.name, "range", f"an element does not fit {spec.datatype}")


def _cast(spec: TensorSpec, array: Any) -> Any:
    dtype = DTYPES[spec.datatype]
    kind = dtype.kind
    if array.dtype == dtype:
        return array
    if array.size and array.dtype.kind not in _ACCEPTS[kind]:
        raise TensorError(spec.name, "type", f"its elements are not all {element(spec.datatype)}s")
    if kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise _out_of_range(spec)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if kind == "f" and array.dtype.itemsize > dtype.itemsize and (np.isinf(cast) & np.isfinite(array)).any():
        raise _out_of_range(spec)
    return cast


def _objects(texts: list[str]) -> Any:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _texts(name: str, data: bytes | memoryview) -> Iterator[str]:
    view = memoryview(data)
    at = 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise TensorError(name, "size", "its last length is cut off")
        (size,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if at + size > len(view):
            raise TensorError(name, "size", f"an element says {size} bytes; {len(view) - at} are left")
        yield _text_of(name, bytes(view[at : at + size]))
        at += size


def _text_of(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TensorError(name, "utf-8", "an element is no UTF-8 text, which the model takes") from error


def _text(shape: Sequence[int | None]) -> str:
    return " x ".join("n" if size is None else str(size) for size in shape) or "a single value"
