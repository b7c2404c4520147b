"""Arguments of a tool as they are typed on the command line."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aegis_client.errors import UsageError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_S: Final = 10 * 365 * 86400.0

ArgumentOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="An argument; repeat it. VALUE is JSON if it reads as JSON, else text; 'id=\"7\"' is text.",
    ),
]
JsonOption = Annotated[
    str, typer.Option("--json", metavar="FILE|-", help="A JSON object of arguments, from a file or stdin.")
]
FileOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH", help="A file as argument, sent raw, or as an artifact from 8 MiB on; repeat it."
    ),
]


def pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    """Return `NAME=VALUE` texts taken apart.

    Raises:
        UsageError: One is of another form; *option* is named.
    """
    found = [text.partition("=") for text in texts or ()]
    for name, sign, value in found:
        if not (name and sign):
            raise UsageError(f"{option} {name + sign + value!r} is not NAME=VALUE")
    return [(name, value) for name, _, value in found]


def json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def json_object(source: str) -> dict[str, Any]:
    """Return the JSON object in a file, or on stdin for `-`; an empty one for an empty name.

    Raises:
        UsageError: There is none.
    """
    if not source:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise UsageError(f"--json {source} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--json {source} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--json {source} is not a JSON object")
    return value


def duration_s(text: str, option: str) -> float | None:
    """Return `90`, `90s`, `5m`, `2h` or `1d` in seconds, 0 to 10 years; None for an empty text.

    Raises:
        UsageError: It is no duration; *option* is named.
    """
    if not text:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MAX_S:
        raise UsageError(f"{option} {text!r} is no duration; for example 90s, 5m, 2h or 1d")
    return seconds


def moment_of(text: str, option: str) -> datetime | None:
    """Return an RFC 3339 time, or the moment after a duration from now."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) + timedelta(seconds=duration_s(text, option) or 0.0)
    return moment if moment.tzinfo else moment.astimezone()
