"""Vectors as the answer of a bundle's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.forms.form import Item
from aegis_agent.adapters.models.forms.tensors import check_finite
from aegis_agent.adapters.models.tensors import DTYPES
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import ToolFailed
from aegis_agent.domain.inference import Tensors, TensorSpec
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import SPEC_FILE, Postprocessing

_TINY: Final = 1e-12


class VectorWriter:
    """`{"vectors": [[...], ...]}`, one for each input; a `Writer`.

    Args:
        tool: Name of the tool, for messages.
        output: The output that is answered with.
        post: How the vectors of tokens become one, and whether it gets the length 1.

    Raises:
        InvalidModelBundle: The output is of another form.
    """

    parameters: Final[Mapping[str, Any]] = {}

    def __init__(self, tool: str, output: TensorSpec, post: Postprocessing) -> None:
        rank = 2 if post.pooling == "none" else 3
        if len(output.shape) != rank or DTYPES[output.datatype].kind != "f":
            told = " x ".join("n" if size is None else str(size) for size in output.shape)
            wanted = "n x size" if rank == 2 else "n x tokens x size"
            raise InvalidModelBundle.at(
                SPEC_FILE,
                f"output {output.name!r} is {output.datatype} {told}; pooling {post.pooling} needs {wanted}",
                field="postprocessing.pooling",
            )
        self._tool, self._name, self._post = tool, output.name, post
        size = output.shape[-1]
        bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        vector = {"type": "array", "items": {"type": "number"}, **bounds}
        self.properties: Final[Mapping[str, Any]] = {
            "vectors": {"type": "array", "items": vector, "description": "One for each input, in order."}
        }

    def write(self, arguments: Arguments, items: Sequence[Item], outputs: Sequence[Tensors]) -> Any:  # noqa: ARG002
        pairs = zip(items, outputs, strict=True)
        return {"vectors": [self._vector(arrays[self._name], item.mask) for item, arrays in pairs]}

    def _vector(self, array: Any, mask: Any) -> list[float]:
        pooled = self._post.pooling != "none"
        if len(array) != 1 or array.ndim != 2 + pooled or (pooled and array.shape[1] != len(mask)):
            raise ToolFailed(
                f"tool {self._tool!r} failed: output {self._name!r} has the shape {array.shape}",
                tool=self._tool,
                error="ValueError",
            )
        check_finite(self._tool, self._name, array)
        vector = self._pooled(array[0].astype(np.float64), mask)
        if self._post.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), _TINY)
        numbers: list[float] = vector.tolist()
        return numbers

    def _pooled(self, array: Any, mask: Any) -> Any:
        if self._post.pooling == "mean":
            return array[mask != 0].mean(axis=0)
        if self._post.pooling == "cls":
            return array[int(np.argmax(mask))]  # padding may stand before it
        return array
