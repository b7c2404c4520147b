"""Frames between the agent and a child: JSON and raw bytes, never pickle.

A frame is a header (a mark and two sizes), a JSON text, and the bytes that its `blobs` list tells apart. A
value's bytes travel beside the JSON, which holds null in their place; their media type and file name, where
there are any, stand in the list.

The agent sends a call, and answers what the child asks or waits for. Every frame of a child's has one of

- `value` or `fault`: the end of the call, with what the child measured;
- `chunk`, `checkpoint`, `read`, `save`: the child waits for an answer, `{"value": ...}` or `{"error": ...}`;
- `progress`, `log`: the child goes on.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from aegis_agent.domain.content import Content

HEADER: Final = struct.Struct("!4sII")
_MARK: Final = b"AEG1"
_ENCODER: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class FrameError(ValueError):
    """Bytes that are no frame, or a value that has no JSON form."""


def encode(value: Any) -> bytes:
    """Return the frame of *value*.

    Raises:
        FrameError: It holds NaN, infinity, or anything but JSON values and bytes.
    """
    blobs: list[tuple[list[str | int], bytes]] = []
    try:
        bare = _without_bytes(value, [], blobs)
        table = [[path, len(blob), *_about(blob)] for path, blob in blobs]
        text = _ENCODER.encode({"value": bare, "blobs": table}).encode()
        size = sum(len(blob) for _, blob in blobs)
        return b"".join((HEADER.pack(_MARK, len(text), size), text, *(blob for _, blob in blobs)))
    except (ValueError, TypeError, RecursionError, struct.error) as error:
        raise FrameError(str(error)) from error


def size_of(header: bytes) -> tuple[int, int]:
    """Return the sizes of the JSON text and of the bytes that follow *header*.

    Raises:
        FrameError: It is no header of a frame.
    """
    mark, text, blobs = HEADER.unpack(header)
    if mark != _MARK:
        raise FrameError("what was sent is no frame")
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
        for path, size, *about in frame["blobs"]:
            if not isinstance(size, int) or size < 0 or offset + size > len(blobs):
                raise FrameError("sizes of the raw bytes do not add up")
            target: Any = holder
            steps = ["value", *path]
            for step in steps[:-1]:
                target = target[step]
            blob = blobs[offset : offset + size]
            target[steps[-1]] = Content(blob, *map(str, about)) if about else bytes(blob)
            offset += size
        return holder["value"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise FrameError(str(error)) from error


def _about(blob: bytes) -> list[str]:
    return [blob.media_type, blob.filename] if isinstance(blob, Content) else []


def _without_bytes(value: Any, path: list[str | int], blobs: list[tuple[list[str | int], bytes]]) -> Any:
    if isinstance(value, bytes):
        blobs.append((list(path), value))
        return None
    if isinstance(value, dict):
        return {name: _without_bytes(item, [*path, name], blobs) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_bytes(item, [*path, i], blobs) for i, item in enumerate(value)]
    return value
