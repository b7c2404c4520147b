"""What a strategy remembers between rounds (momentum, clipping norm, trees), as plain values and arrays."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

_log: Final = logging.getLogger(__name__)
_PLAIN: Final = (bool, int, float, str, type(None))


class Unkept(TypeError):
    """A value that cannot be written down."""


def strategy_state(strategy: Strategy) -> dict[str, Any]:
    """Return what *strategy*, and each strategy it wraps, holds; functions are left out."""
    own = getattr(strategy, "state_dict", None)
    if callable(own):
        return {"own": own()}
    kept: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            inner[name] = strategy_state(value)
        elif not callable(value):
            try:
                flatten(value)
            except Unkept as error:
                _log.warning("%s.%s does not survive: %s", type(strategy).__name__, name, error)
            else:
                kept[name] = value
    return {"kept": kept, "inner": inner}


def restore_strategy(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Put back what `strategy_state` returned for a strategy made in the same way."""
    if "own" in state:
        strategy.load_state_dict(state["own"])  # type: ignore[attr-defined]  # the pair of state_dict
        return
    for name, value in state["kept"].items():
        setattr(strategy, name, value)
    for name, inner in state["inner"].items():
        restore_strategy(getattr(strategy, name), inner)


def flatten(value: Any, arrays: list[np.ndarray] | None = None) -> Any:
    """Return *value* as JSON values, its arrays moved into *arrays*.

    Raises:
        Unkept: There is something else in it than numbers, texts, bytes, arrays, lists and dicts.
    """
    arrays = [] if arrays is None else arrays
    match value:
        case np.ndarray() if value.dtype.hasobject:
            raise Unkept("an array of objects cannot be kept")
        case np.ndarray():
            return {"array": _put(value, arrays)}
        case np.generic():
            return {"scalar": _put(np.asarray(value), arrays)}
        case bytes():
            return {"bytes": _put(np.frombuffer(value, np.uint8), arrays)}
        case ArrayRecord():
            pairs = [[name, _put(array.numpy(), arrays)] for name, array in value.items()]
            return {"record": pairs}
        case dict():
            return {"dict": [[flatten(key, arrays), flatten(item, arrays)] for key, item in value.items()]}
        case list() | tuple():
            return {type(value).__name__: [flatten(item, arrays) for item in value]}
    # subclasses, such as enums, would come back as something else
    if type(value) in _PLAIN:
        return value
    raise Unkept(f"a {type(value).__name__} cannot be kept")


def unflatten(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return what `flatten` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "array":
            return arrays[content]
        case "scalar":
            return arrays[content][()]
        case "bytes":
            return arrays[content].tobytes()
        case "record":
            return ArrayRecord({name: Array(arrays[index]) for name, index in content})
        case "dict":
            return {unflatten(key, arrays): unflatten(item, arrays) for key, item in content}
        case "list":
            return [unflatten(item, arrays) for item in content]
        case "tuple":
            return tuple(unflatten(item, arrays) for item in content)
    raise ValueError(f"unknown kind of value {kind!r}")


def _put(array: np.ndarray, arrays: list[np.ndarray]) -> int:
    arrays.append(array)
    return len(arrays) - 1
