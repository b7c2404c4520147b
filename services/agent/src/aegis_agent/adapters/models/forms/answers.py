"""Answers of bundles: labels with scores, vectors, and the values of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.forms.form import Item, closed
from aegis_agent.adapters.models.forms.tensors import check_finite
from aegis_agent.adapters.models.tensors import BYTES, DTYPES, element
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import ToolFailed
from aegis_agent.domain.inference import Tensors, TensorSpec
from aegis_common.store.model_spec import Postprocessing

_ENUM: Final = 100
"""Most labels that the schema lists one by one."""


class Labels:
    """The best labels of one row of the model's output.

    Args:
        tool: Name of the tool, for messages.
        output: The output that is answered with: scores by class, class numbers, or names of classes.
        labels: Names of the classes in the model's order.
        post: What turns the output into scores, and how many labels an answer has.
    """

    def __init__(self, tool: str, output: TensorSpec, labels: Sequence[str], post: Postprocessing) -> None:
        self._tool = tool
        self._output = output
        self._labels = tuple(labels)
        self._activation = post.activation
        self.most: Final = min(post.top_k, len(labels))
        self.scored: Final = DTYPES[output.datatype].kind == "f"

    @property
    def schema(self) -> dict[str, Any]:
        label: dict[str, Any] = {"type": "string"}
        if len(self._labels) <= _ENUM and self._output.datatype != BYTES:
            label["enum"] = list(dict.fromkeys(self._labels))
        score = {"type": "number", "description": "Higher is surer."}
        item = closed({"label": label, "score": score}, ["label", "score"] if self.scored else ["label"])
        return {"type": "array", "items": item, "minItems": 1, "description": "The best label first."}

    @property
    def parameters(self) -> dict[str, Any]:
        if not self.scored:
            return {}
        return {
            "top_k": {
                "type": "integer",
                "minimum": 1,
                "maximum": len(self._labels),
                "default": self.most,
                "description": "Most labels of the answer.",
            }
        }

    def of(self, row: Any, most: int) -> list[dict[str, Any]]:
        """Return the labels of one row, the best first.

        Raises:
            ToolFailed: The row has another number of classes, or a class that has no label.
        """
        if not self.scored:
            return [{"label": self._named(row[0])}]
        scores = self._scores(row)
        if len(scores) != len(self._labels):
            raise self._failed(f"{len(scores)} scores came for {len(self._labels)} labels")
        best = np.argsort(-scores, kind="stable")[:most].tolist()
        return [{"label": self._labels[index], "score": float(scores[index])} for index in best]

    def _scores(self, row: Any) -> Any:
        scores = row.astype(np.float64)
        if self._activation == "softmax":
            powers = np.exp(scores - scores.max())
            scores = powers / powers.sum()
        elif self._activation == "sigmoid":
            scores = 0.5 * (1 + np.tanh(scores / 2))  # the same, and never overflows
        if len(scores) == 1 and len(self._labels) == 2:
            return np.concatenate([1 - scores, scores])
        return scores

    def _named(self, value: Any) -> str:
        if self._output.datatype == BYTES:
            return str(value)
        index = int(value)
        if not 0 <= index < len(self._labels):
            raise self._failed(f"it gave class {index}, and there are {len(self._labels)} labels")
        return self._labels[index]

    def _failed(self, what: str) -> ToolFailed:
        return ToolFailed(f"tool {self._tool!r} failed: {what}", tool=self._tool, error="ValueError")


class LabelWriter:
    """`{"labels": [{"label": ..., "score": ...}, ...]}`; a `Writer`."""

    def __init__(self, tool: str, output: TensorSpec, labels: Labels) -> None:
        self._tool, self._name, self._labels = tool, output.name, labels
        self.parameters: Final[Mapping[str, Any]] = labels.parameters
        self.properties: Final[Mapping[str, Any]] = {"labels": labels.schema}

    def write(self, arguments: Arguments, items: Sequence[Item], outputs: Sequence[Tensors]) -> Any:  # noqa: ARG002
        (row,) = rows_of(self._tool, self._name, outputs, 1)
        return {"labels": self._labels.of(row, arguments.get("top_k", self._labels.most))}


class RowWriter:
    """`{"rows": [...]}`, each with labels, or with the values that the model gave; a `Writer`."""

    def __init__(self, tool: str, output: TensorSpec, labels: Labels | None) -> None:
        self._tool, self._name, self._labels = tool, output.name, labels
        self.parameters: Final[Mapping[str, Any]] = {} if labels is None else labels.parameters
        values = {"type": "array", "items": {"type": element(output.datatype)}, "minItems": 1}
        row = {"values": values} if labels is None else {"labels": labels.schema}
        items = closed(row, list(row))
        self.properties: Final[Mapping[str, Any]] = {
            "rows": {"type": "array", "items": items, "description": "One answer for each row, in order."}
        }

    def write(self, arguments: Arguments, items: Sequence[Item], outputs: Sequence[Tensors]) -> Any:  # noqa: ARG002
        rows = rows_of(self._tool, self._name, outputs, len(arguments["rows"]))
        labels = self._labels
        if labels is None:
            return {"rows": [{"values": row.tolist()} for row in rows]}
        most = arguments.get("top_k", labels.most)
        return {"rows": [{"labels": labels.of(row, most)} for row in rows]}


def rows_of(tool: str, name: str, outputs: Sequence[Tensors], count: int) -> list[Any]:
    """Return the rows of all runs of one output, flat each.

    Raises:
        ToolFailed: There are not *count* of them, or one holds NaN or infinity.
    """
    rows: list[Any] = []
    for arrays in outputs:
        array = arrays[name]
        check_finite(tool, name, array)
        rows += [row.reshape(-1) for row in array] if array.ndim else []
    if len(rows) != count or any(not row.size for row in rows):
        raise ToolFailed(
            f"tool {tool!r} failed: output {name!r} has {len(rows)} rows for {count}",
            tool=tool,
            error="ValueError",
        )
    return rows
