"""Frames between the agent and a child: JSON and raw bytes, never pickle.

A frame is a header of two sizes, a JSON text, and the bytes that its `blobs` list tells apart. A value's
bytes travel beside the JSON, which holds null in their place.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

HEADER: Final = struct.Struct("!II")


class FrameError(Exception):
    """Bytes that are no frame, or a value that has no JSON form."""


def encode(value: Any) -> bytes:
    """Return the frame of *value*.

    Raises:
        FrameError: It holds NaN, infinity, or anything but JSON values and bytes.
    """
    blobs: list[tuple[list[str | int], bytes]] = []
    try:
        bare = _without_bytes(value, [], blobs)
        table = [[path, len(blob)] for path, blob in blobs]
        text = json.dumps({"value": bare, "blobs": table}, allow_nan=False, separators=(",", ":")).encode()
        size = sum(len(blob) for _, blob in blobs)
        return b"".join((HEADER.pack(len(text), size), text, *(blob for _, blob in blobs)))
    except (ValueError, TypeError, RecursionError, struct.error) as error:
        raise FrameError(str(error)) from error


def size_of(header: bytes) -> tuple[int, int]:
    """Return the sizes of the JSON text and of the bytes that follow *header*."""
    text, blobs = HEADER.unpack(header)
    return text, blobs


def decode(text: memoryview, blobs: memoryview) -> Any:
    """Return the value of a frame.

    Raises:
        FrameError: It is broken; nothing that the other side sends can do more harm than this.
    """
    try:
        frame = json.loads(bytes(text))
        holder = {"value": frame["value"]}
        offset = 0
        for path, size in frame["blobs"]:
            if not isinstance(size, int) or size < 0 or offset + size > len(blobs):
                raise FrameError("sizes of the raw bytes do not add up")
            target: Any = holder
            steps = ["value", *path]
            for step in steps[:-1]:
                target = target[step]
            target[steps[-1]] = bytes(blobs[offset : offset + size])
            offset += size
        return holder["value"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise FrameError(str(error)) from error


def _without_bytes(value: Any, path: list[str | int], blobs: list[tuple[list[str | int], bytes]]) -> Any:
    if isinstance(value, bytes):
        blobs.append((list(path), value))
        return None
    if isinstance(value, dict):
        return {name: _without_bytes(item, [*path, name], blobs) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_bytes(item, [*path, i], blobs) for i, item in enumerate(value)]
    return value
