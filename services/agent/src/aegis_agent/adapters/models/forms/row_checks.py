"""A quick look at rows: sound ones need no JSON Schema, which takes a hundred times as long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from aegis_common.store.model_spec import Feature

Test = Callable[[Any], bool]


class RowLook:
    """Tells rows that fit their schema for certain.

    Args:
        features: The features of a row.
        most: Most rows.
    """

    def __init__(self, features: Sequence[Feature], *, most: int) -> None:
        self._most = most
        self._tests: Final = [(item.name, _test(item), item.default is None) for item in features]

    def fit(self, rows: Any) -> bool:
        """Return whether *rows* fit; of what does not, or only may, the schema tells more."""
        return type(rows) is list and 0 < len(rows) <= self._most and all(map(self._fits, rows))

    def _fits(self, row: Any) -> bool:
        if type(row) is not dict:
            return False
        seen = 0
        for name, test, needed in self._tests:
            if name in row:
                if not test(row[name]):
                    return False
                seen += 1
            elif needed:
                return False
        return seen == len(row)


def _test(feature: Feature) -> Test:
    if feature.type == "category":
        names = frozenset(feature.categories)
        return lambda value: type(value) is str and value in names
    if feature.type == "boolean":
        return lambda value: type(value) is bool
    if feature.type == "text":
        return lambda value: type(value) is str
    low = float("-inf") if feature.minimum is None else feature.minimum
    high = float("inf") if feature.maximum is None else feature.maximum
    if feature.type == "integer":
        return lambda value: type(value) is int and low <= value <= high
    return lambda value: type(value) in (int, float) and low <= value <= high
