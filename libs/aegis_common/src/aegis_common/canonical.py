"""Canonical JSON: one text per value, so that it can be hashed and signed."""

from __future__ import annotations

import json
from typing import Final

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: object) -> bytes:
    """Return *value* as UTF-8 JSON with sorted keys and no spaces.

    Raises:
        ValueError: It holds NaN or infinity.
        TypeError: It holds something that JSON has no form for, or keys that are not strings.
    """
    _check_keys(value)
    return canonical_text(value)


def canonical_text(value: object) -> bytes:
    """Return what `canonical_json` returns, for a value of which it is known that all keys are strings."""
    return _ENCODER.encode(value).encode()


def _check_keys(value: object) -> None:
    # json would silently write the key 1 as "1", and read it back as another value
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not a string")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)
