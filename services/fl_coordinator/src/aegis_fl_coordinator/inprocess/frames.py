"""How the engine and its client processes talk: frames of several byte strings over a pipe."""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

_COUNT: Final = struct.Struct(">I")
_SIZE: Final = struct.Struct(">Q")


class Closed(Exception):
    """The other side is gone."""


def write_frame(stream: BinaryIO, *parts: bytes) -> None:
    """Write one frame.

    Raises:
        Closed: The other side is gone.
    """
    try:
        stream.write(_COUNT.pack(len(parts)))
        for part in parts:
            stream.write(_SIZE.pack(len(part)))
            stream.write(part)
        stream.flush()
    except (OSError, ValueError) as error:
        raise Closed from error


def read_frame(stream: BinaryIO) -> list[bytes]:
    """Read one frame.

    Raises:
        Closed: The other side is gone, in the middle of a frame too.
    """
    (count,) = _COUNT.unpack(_exactly(stream, _COUNT.size))
    return [_exactly(stream, _SIZE.unpack(_exactly(stream, _SIZE.size))[0]) for _ in range(count)]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    try:
        content = stream.read(size)
    except (OSError, ValueError) as error:
        raise Closed from error
    if len(content) < size:
        raise Closed
    return content
