"""How much a JSON text holds, before it is parsed: a parser makes objects of it all and stops for nothing.

12 MiB of empty lists are four million objects; making and copying them keeps the event loop busy for seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Final

from aegis_common.errors import AegisError, ErrorKind

_AT_ONCE_BYTES: Final = 64 << 10
_WINDOW_BYTES: Final = 256 << 10
_TOKEN: Final = re.compile(rb'[\[\]{},"]')
_INSIDE: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_ADVICE: Final = "send large data as raw bytes, as an artifact, or in several calls"


class MessageTooComplex(AegisError):
    """A JSON text that would take too long to be read."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "MESSAGE_TOO_COMPLEX"


class MessageNotUtf8(AegisError):
    """A JSON text in UTF-16 or UTF-32, where bytes are no characters; Python's parser would take it."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "MESSAGE_NOT_UTF8"


@dataclass(frozen=True, slots=True, kw_only=True)
class MostWeight:
    """What a JSON text may hold.

    Attributes:
        containers: Most lists and objects.
        values: Most values besides the first of each list and object.
        depth: Most lists and objects inside each other.
    """

    containers: int = 20_000
    values: int = 250_000
    depth: int = 64


DEFAULT: Final = MostWeight()


async def check_weight(body: bytes, most: MostWeight = DEFAULT) -> None:
    """Refuse a JSON text that holds too much; whether it is JSON at all shows when it is parsed.

    Raises:
        MessageTooComplex: It does.
        MessageNotUtf8: It cannot be told.
    """
    encoding = json.detect_encoding(body)
    if encoding not in ("utf-8", "utf-8-sig"):
        raise MessageNotUtf8(f"the message is {encoding}; send it as UTF-8", encoding=encoding)
    opened = body.count(b"[") + body.count(b"{")
    if opened <= min(most.depth, most.containers) and body.count(b",") <= most.values:
        return  # even if none of them is inside a text
    if len(body) <= _AT_ONCE_BYTES:
        _scan(body, most)
    else:
        await asyncio.to_thread(_scan, body, most)


def _scan(body: bytes, most: MostWeight) -> None:
    containers = values = depth = at = 0
    while token := _TOKEN.search(body, at):
        at = token.end()
        sign = token[0]
        if sign == b'"':
            at = _end_of_text(body, at)
        elif sign == b",":
            values += 1
        elif sign in b"[{":
            containers, depth = containers + 1, depth + 1
        else:
            depth -= 1
        _check("lists and objects", containers, most.containers)
        _check("values", values, most.values)
        _check("lists and objects inside each other", depth, most.depth)


def _check(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise MessageTooComplex(
            f"the message has more than {limit} {what}; {_ADVICE}", limit=str(limit), of=what
        )


def _end_of_text(body: bytes, at: int) -> int:
    """Return where the text that begins at *at* is over; in pieces, so that other threads get their turn."""
    while at < len(body):
        inside = _INSIDE.match(body, at, at + _WINDOW_BYTES)
        end = inside.end() if inside else at
        if body[end : end + 1] == b'"':
            return end + 1
        if end == at:
            break  # nothing but a backslash is left
        at = end
    return len(body)
