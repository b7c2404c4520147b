"""How much metadata a call may carry, and how much of it an error may take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

METADATA_BYTES: Final = 32 << 10
"""Metadata that our servers and channels accept: room for a token of the size that is verified."""
METADATA_OPTIONS: Final = (
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
)
# Other clients accept 8 KiB of trailers and lose the whole status above that. The message goes twice, once
# percent-encoded; the details go in base64.
MESSAGE_BYTES: Final = 768
PAIRS_BYTES: Final = 1280
_VALUE_BYTES: Final = 512
_CUT: Final = "..."


def clipped(value: object, limit: int) -> str:
    """Return *value* as text of at most *limit* bytes, which UTF-8 can carry."""
    data = str(value).encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(_CUT)].decode("utf-8", "ignore") + _CUT


def clipped_pairs(pairs: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Return the first of *pairs* that fit, each clipped."""
    result: dict[str, str] = {}
    left = PAIRS_BYTES
    for key, value in pairs:
        name, text = clipped(key, _VALUE_BYTES), clipped(value, _VALUE_BYTES)
        left -= len(name.encode()) + len(text.encode())
        if left < 0:
            break
        result[name] = text
    return result
