"""Rows of named features as the input of a bundle's model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.forms.form import Item, Prepare, closed
from aegis_agent.adapters.models.forms.row_checks import RowLook
from aegis_agent.adapters.models.tensors import BYTES, DTYPES
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import InvalidToolInput, Violation
from aegis_agent.domain.inference import Signature, Tensors, TensorSpec
from aegis_agent.domain.offload import offloaded
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import SPEC_FILE, Feature, TabularInput

MAX_ROWS: Final = 1000
_TYPES: Final = {"number": "number", "integer": "integer", "boolean": "boolean", "text": "string"}


class RowReader:
    """Reads `rows`; a `Reader`.

    Args:
        tool: Name of the tool, for messages.
        signature: The model's inputs: one with all features side by side, or one per feature by its name.
        tabular: The features.
        only: The input that takes all features; empty where the bundle names none.
        together: Rows may be run together: each gives the same result alone.

    Attributes:
        look: Tells sound rows quickly.

    Raises:
        InvalidModelBundle: Features and inputs do not fit each other.
    """

    preparation: Final = None

    def __init__(
        self, tool: str, signature: Signature, tabular: TabularInput, *, only: str, together: bool
    ) -> None:
        self._tool = tool
        self._features = tabular.features
        self._tensors = _tensors(signature, tabular, only)
        fixed = any(spec.shape[0] is not None for spec, _ in self._tensors)
        self._together = together and not fixed
        row = closed(
            {item.name: _schema(item) for item in tabular.features},
            [item.name for item in tabular.features if item.default is None],
        )
        rows = {"type": "array", "items": row, "minItems": 1, "maxItems": MAX_ROWS}
        self.properties: Final[Mapping[str, Any]] = {"rows": rows}
        self.required: Final[Sequence[str]] = ["rows"]
        self.look: Final = RowLook(tabular.features, most=MAX_ROWS)

    async def read(self, arguments: Arguments, prepare: Prepare) -> list[Item]:  # noqa: ARG002  # nothing to prepare
        return await offloaded(self._items, arguments["rows"])

    def _items(self, rows: list[Mapping[str, Any]]) -> list[Item]:
        groups = [rows] if self._together else [[row] for row in rows]
        return [Item(self._feeds(group, index)) for index, group in enumerate(groups)]

    def _feeds(self, rows: list[Mapping[str, Any]], first: int) -> Tensors:
        return {spec.name: self._tensor(spec, features, rows, first) for spec, features in self._tensors}

    def _tensor(
        self, spec: TensorSpec, features: Sequence[Feature], rows: list[Mapping[str, Any]], first: int
    ) -> Any:
        lines = [
            [number for feature in features for number in self._numbers(spec, feature, row, first + index)]
            for index, row in enumerate(rows)
        ]
        array = np.array(lines, dtype=DTYPES[spec.datatype])
        return array if len(spec.shape) == 2 else array[:, 0]

    def _numbers(
        self, spec: TensorSpec, feature: Feature, row: Mapping[str, Any], index: int
    ) -> Sequence[Any]:
        value = row.get(feature.name, feature.default)
        try:
            numbers = [value] if spec.datatype == BYTES else _numbers(feature, value)
        except OverflowError:
            numbers = [math.inf]
        if all(_fits(spec.datatype, number) for number in numbers):
            return numbers
        message = f"{str(value)[:40]!a} does not fit {spec.datatype}, which the model takes"
        place = f"rows[{index}].{feature.name}"
        raise InvalidToolInput.of(self._tool, [Violation(place, "range", message)])


def _fits(datatype: str, number: Any) -> bool:
    if datatype == BYTES:
        return not any(0xD800 <= ord(character) < 0xE000 for character in number)  # halves are no UTF-8
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        return True
    if dtype.kind == "f":
        return bool(abs(number) <= float(np.finfo(dtype).max))
    limits = np.iinfo(dtype)
    return bool(int(limits.min) <= number <= int(limits.max) and number == int(number))


def _numbers(feature: Feature, value: Any) -> list[Any]:
    if feature.type == "category":
        place = feature.categories.index(value)
        if feature.encoding == "index":
            return [place]
        return [int(at == place) for at in range(len(feature.categories))]
    if feature.type == "boolean":
        return [int(value)]
    if (feature.mean, feature.std) == (0.0, 1.0):
        return [value]
    return [(value - feature.mean) / feature.std]


def _schema(feature: Feature) -> dict[str, Any]:
    if feature.type == "category":
        schema: dict[str, Any] = {"type": "string", "enum": list(feature.categories)}
    else:
        schema = {"type": _TYPES[feature.type]}
    for name in ("minimum", "maximum", "default"):
        value = getattr(feature, name)
        if value is not None:
            schema[name] = value
    return schema | ({"description": feature.description} if feature.description else {})


def _tensors(
    signature: Signature, tabular: TabularInput, only: str
) -> list[tuple[TensorSpec, tuple[Feature, ...]]]:
    """Return which features go into which input."""
    pairs: list[tuple[TensorSpec, tuple[Feature, ...]]]
    inputs = {spec.name: spec for spec in signature.inputs}
    features = {item.name: item for item in tabular.features}
    if only and only not in inputs:
        what = f"{only!r} is none of the model's: {', '.join(inputs)}"
        raise InvalidModelBundle.at(SPEC_FILE, what, field="input")
    if not only and inputs.keys() == features.keys():
        pairs = [(inputs[name], (feature,)) for name, feature in features.items()]
    elif len(inputs) == 1:
        pairs = [(next(iter(inputs.values())), tabular.features)]
    else:
        missing = sorted(inputs.keys() ^ features.keys())
        raise _fault(
            f"the model takes {', '.join(inputs)}: one input for all features, or one for each by its name, "
            f"are wanted; {missing[0]!r} has no counterpart"
        )
    for spec, items in pairs:
        _check_width(spec, items)
        for feature in items:
            _check_kind(spec, feature)
    return pairs


def _check_width(spec: TensorSpec, features: Sequence[Feature]) -> None:
    columns = [
        len(item.categories) if item.encoding == "one-hot" and spec.datatype != BYTES else 1
        for item in features
    ]
    width = sum(columns)
    fits = len(spec.shape) == 2 and spec.shape[1] in (None, width)
    alone = len(spec.shape) == 1 and width == 1
    if not (fits or alone) or spec.shape[0] not in (None, 1):
        told = " x ".join("n" if size is None else str(size) for size in spec.shape)
        raise _fault(f"they make {width} numbers a row; input {spec.name!r} takes {told}")


def _check_kind(spec: TensorSpec, feature: Feature) -> None:
    texts = spec.datatype == BYTES
    if texts and feature.type not in ("text", "category"):
        raise _fault(f"{feature.name!r} is a {feature.type}; input {spec.name!r} takes texts")
    if not texts and feature.type == "text":
        raise _fault(f"{feature.name!r} is a text; input {spec.name!r} takes {spec.datatype}")
    if spec.datatype == "BOOL" and feature.type != "boolean":
        raise _fault(f"{feature.name!r} is a {feature.type}; input {spec.name!r} takes BOOL")


def _fault(what: str) -> InvalidModelBundle:
    return InvalidModelBundle.at(SPEC_FILE, what, field="preprocessing.tabular.features")
