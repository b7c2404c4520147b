"""About how many bytes a JSON value takes, and copies of such values."""

from __future__ import annotations

from typing import Any, Final

_SCALAR: Final = 8
_ITEM: Final = 8


def size_of(value: Any) -> int:
    """Return about how many bytes *value* (JSON values and bytes) takes up on the wire."""
    total = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str | bytes):
            total += len(item) + _ITEM
        elif isinstance(item, dict):
            total += sum(len(key) + _ITEM for key in item) + _ITEM
            pending.extend(item.values())
        elif isinstance(item, list):
            total += _ITEM
            pending.extend(item)
        else:
            total += _SCALAR
    return total


def copy_of(value: Any) -> Any:
    """Return *value* with lists and objects of its own, so that its owner cannot change another's."""
    if isinstance(value, dict):
        return {key: copy_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_of(item) for item in value]
    return value
