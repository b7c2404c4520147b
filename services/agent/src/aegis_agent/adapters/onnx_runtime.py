"""Inside a child: one ONNX model, its inputs checked, its outputs as plain arrays."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import onnxruntime

from aegis_agent.adapters.schemas import ToolInputError

# its names come from an extension module without types
_ORT: Final[Any] = onnxruntime
_TYPES: Final[dict[str, Any]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.str_,
}
_ACCEPTS: Final = {"f": "iuf", "i": "iu", "u": "iu", "b": "b", "U": "U"}
_ELEMENTS: Final = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "U": "string"}
_FATAL_ONLY: Final = 4


class OnnxModel:
    """A session that is called with named nested arrays.

    Args:
        model: The model file; it may not refer to other files.
        sha256: Digest that it must have.
        threads: Threads of one inference; 1 and up.
        labels: Names of the classes, in order, or none.

    Attributes:
        about: Names, types and shapes of inputs and outputs; an open dimension is None.
    """

    def __init__(self, *, model: bytes, sha256: str, threads: int, labels: list[str]) -> None:
        if hashlib.sha256(model).hexdigest() != sha256:
            raise ValueError("the bytes that arrived are not the model's")
        options = _ORT.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        self._session = _ORT.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
        self._inputs = {item.name: (_type(item), _shape(item)) for item in self._session.get_inputs()}
        self._outputs = {item.name: (_type(item), _shape(item)) for item in self._session.get_outputs()}
        self._labels = labels
        self.about: Final = {
            "inputs": _described(self._inputs),
            "outputs": _described(self._outputs),
            "labelled": self._labelled,
        }

    def __call__(self, arguments: dict[str, Any]) -> dict[str, Any]:
        feeds = {
            name: _array(name, arguments[name], dtype, shape) for name, (dtype, shape) in self._inputs.items()
        }
        names = list(self._outputs)
        arrays = dict(zip(names, self._session.run(names, feeds), strict=True))
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ArithmeticError(f"output {name!r} holds NaN or infinity, which JSON cannot carry")
        result: dict[str, Any] = {name: array.tolist() for name, array in arrays.items()}
        if self._labelled:
            classes = np.argmax(arrays[names[0]], axis=1).tolist()
            result["labels"] = [self._labels[i] if i < len(self._labels) else i for i in classes]
        return result

    @property
    def _labelled(self) -> bool:
        """Whether the only output is scores by class, so that the best class can be named."""
        if len(self._outputs) != 1 or "labels" in self._outputs:
            return False
        dtype, shape = next(iter(self._outputs.values()))
        return np.dtype(dtype).kind == "f" and len(shape) == 2 and shape[1] != 1


def _array(name: str, value: Any, dtype: Any, shape: list[int | None]) -> Any:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ToolInputError("its rows differ in length", path=name, rule="shape") from error
    wanted = np.dtype(dtype).kind
    if array.dtype.kind not in _ACCEPTS[wanted]:
        raise ToolInputError(f"its elements are not all {_element(dtype)}s", path=name, rule="type")
    fits = len(shape) == array.ndim and all(
        size is None or size == got for size, got in zip(shape, array.shape, strict=True)
    )
    if not fits or not array.size:
        wanted_text = " x ".join("n" if size is None else str(size) for size in shape) or "a single value"
        got_text = " x ".join(map(str, array.shape)) or "a single value"
        raise ToolInputError(
            f"its shape is {got_text}; the model takes {wanted_text}", path=name, rule="shape"
        )
    if wanted in "iu" and not _in_range(array, dtype):
        raise ToolInputError(f"an element does not fit {np.dtype(dtype).name}", path=name, rule="range")
    return array.astype(object if wanted == "U" else dtype)


def _in_range(array: Any, dtype: Any) -> bool:
    limits = np.iinfo(dtype)
    return bool(array.min() >= limits.min and array.max() <= limits.max)


def _type(item: Any) -> Any:
    if item.type not in _TYPES:
        raise TypeError(
            f"{item.name!r} is a {item.type}; only tensors of numbers, booleans and texts can be served"
        )
    return _TYPES[item.type]


def _shape(item: Any) -> list[int | None]:
    return [size if isinstance(size, int) and size > 0 else None for size in item.shape]


def _element(dtype: Any) -> str:
    return {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "U": "string"}[
        np.dtype(dtype).kind
    ]


def _described(tensors: dict[str, tuple[Any, list[int | None]]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "element": _element(dtype), "type": np.dtype(dtype).name, "shape": shape}
        for name, (dtype, shape) in tensors.items()
    ]
