"""Log lines of the children: to a bounded file each and, with the name in front, to the terminal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 8 << 20
"""Size at which a log file is moved to `NAME.log.1`, replacing the one before."""
TAIL_LINES: Final = 20
_LINE_LIMIT: Final = 1 << 20


class LogSink:
    """Takes the lines of one process.

    Args:
        name: The process.
        path: Its log file; appended to.
        echo: Gets each line too, or None.
    """

    def __init__(
        self, name: str, path: Path, *, echo: Callable[[str, str], None] | None, max_bytes: int = MAX_BYTES
    ) -> None:
        self._name = name
        self._path = path
        self._echo = echo
        self._max_bytes = max_bytes
        self._file = path.open("ab", buffering=0)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def write(self, line: str) -> None:
        self.tail.append(line)
        data = line.encode(errors="replace") + b"\n"
        if self._file.tell() + len(data) > self._max_bytes:
            self._rotate()
        self._file.write(data)
        if self._echo is not None:
            self._echo(self._name, line)

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file = self._path.open("ab", buffering=0)


async def pump(stream: asyncio.StreamReader, sink: LogSink) -> None:
    """Copy lines from *stream* to *sink* until its end; an over-long line is split, never lost."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            sink.write(line.decode(errors="replace").rstrip("\r"))
        if len(rest) > _LINE_LIMIT:
            sink.write(rest.decode(errors="replace"))
            rest = b""
    if rest:
        sink.write(rest.decode(errors="replace"))
