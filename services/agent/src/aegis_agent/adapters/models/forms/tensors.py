"""Plain tensors as nested lists: the form of a model without a bundle, and of the task raw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.forms.form import Form, Item, Prepare
from aegis_agent.adapters.models.tensors import DTYPES, TensorError, element, from_nested, type_name
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import InvalidToolInput, ToolFailed, Violation
from aegis_agent.domain.inference import Signature, Tensors, TensorSpec
from aegis_agent.domain.offload import offloaded


def tensor_form(tool: str, signature: Signature, labels: Sequence[str]) -> Form:
    """Return the form in which the inputs and outputs are the model's own."""
    names = [item.name for item in signature.inputs]
    reader, writer = TensorReader(tool, signature), TensorWriter(tool, signature, labels)
    return Form(reader, writer, NameChecks(tool, names), tuple(labels))


class TensorReader:
    """Reads nested lists by input name; a `Reader`."""

    preparation: Final = None

    def __init__(self, tool: str, signature: Signature) -> None:
        self._tool = tool
        self._inputs = signature.inputs
        self.properties: Final = {item.name: _schema(item) for item in signature.inputs}
        self.required: Final = list(self.properties)

    async def read(self, arguments: Arguments, prepare: Prepare) -> list[Item]:  # noqa: ARG002  # nothing to prepare
        return [Item(await offloaded(self._tensors, arguments))]

    def _tensors(self, arguments: Arguments) -> Tensors:
        try:
            return {spec.name: from_nested(spec, arguments[spec.name]) for spec in self._inputs}
        except TensorError as error:
            raise InvalidToolInput.of(self._tool, [error.violation]) from error


class TensorWriter:
    """Gives nested lists by output name, and the best class where there are classes; a `Writer`."""

    parameters: Final[Mapping[str, Any]] = {}

    def __init__(self, tool: str, signature: Signature, labels: Sequence[str]) -> None:
        self._tool = tool
        self._labels = tuple(labels)
        self._scores = signature.outputs[0].name if is_labelled(signature) else ""
        self.properties: Final = {item.name: _schema(item) for item in signature.outputs}
        if self._scores:
            self.properties["labels"] = {
                "type": "array",
                "items": {"type": "string"} if labels else {"type": "integer", "minimum": 0},
                "description": "The class with the highest score, for each row.",
            }

    def write(self, arguments: Arguments, items: Sequence[Item], outputs: Sequence[Tensors]) -> Any:  # noqa: ARG002
        arrays = outputs[0]
        for name, array in arrays.items():
            check_finite(self._tool, name, array)
        result: dict[str, Any] = {name: array.tolist() for name, array in arrays.items()}
        if self._scores:
            classes = np.argmax(arrays[self._scores], axis=1).tolist()
            result["labels"] = [self._labels[i] if i < len(self._labels) else i for i in classes]
        return result


class NameChecks:
    """Checks names only: the reader checks every element, with numpy far faster than JSON Schema could."""

    def __init__(self, tool: str, inputs: Sequence[str]) -> None:
        self._tool = tool
        self._inputs = inputs

    def input(self, arguments: Arguments) -> Arguments:
        known = ", ".join(self._inputs)
        faults = [
            Violation(name, "required", "is required and missing")
            for name in self._inputs
            if name not in arguments
        ]
        faults += [
            Violation(name, "additionalProperties", f"is no input of this model; it takes {known}")
            for name in arguments
            if name not in self._inputs
        ]
        if faults:
            raise InvalidToolInput.of(self._tool, faults)
        return arguments

    def output(self, value: Any) -> None:
        """The writer makes results from typed arrays; there is nothing left to check."""


def is_labelled(signature: Signature) -> bool:
    """Return whether the only output is scores by class: n x classes, more than one class."""
    if len(signature.outputs) != 1 or signature.outputs[0].name == "labels":
        return False
    spec = signature.outputs[0]
    return DTYPES[spec.datatype].kind == "f" and len(spec.shape) == 2 and spec.shape[1] != 1


def check_finite(tool: str, name: str, array: Any) -> None:
    """Refuse numbers that JSON has no form for.

    Raises:
        ToolFailed: An element is NaN or infinite.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ToolFailed(
            f"tool {tool!r} failed: ArithmeticError: output {name!r} holds NaN or infinity, "
            "which JSON cannot carry",
            tool=tool,
            error="ArithmeticError",
        )


def _schema(item: TensorSpec) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": element(item.datatype)}
    for size in reversed(item.shape):
        bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **bounds}
    shape = " x ".join("n" if size is None else str(size) for size in item.shape)
    return {**schema, "description": f"{type_name(item.datatype)} {shape}".strip()}
