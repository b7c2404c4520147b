"""The `pattern` of a JSON Schema, matched in time that grows with the text alone.

Python's own engine backtracks: with `^(a+)+$`, a text of 40 characters keeps it busy for hours, and nothing
else runs meanwhile.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

Matcher = Callable[[str], bool]

MAX_PATTERN_CHARS: Final = 1024
"""Longest pattern in a schema from elsewhere."""
_TIMES: Final = 64  # the engine takes 10 MiB for a compiled pattern; a foreign one gets this part of it
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
# What JSON Schema means by them; the engine's own are those of all scripts, and large.
_ASCII: Final = {"w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]", "d": "[0-9]", "D": "[^0-9]"}


class BadPattern(ValueError):
    """A pattern that is not used: it is none, or it would take too much."""


@functools.lru_cache(maxsize=1024)
def own_matcher(pattern: str) -> Matcher:
    """Return what tells whether *pattern*, of a tool of our own, is somewhere in a text.

    A pattern that needs to look around or back is left to Python's engine.

    Raises:
        BadPattern: It is none.
    """
    try:
        return _compiled(pattern)
    except SchemaError:
        pass
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(f"{pattern[:100]!r} is no regular expression: {error}") from error
    return lambda text: search(text) is not None


@functools.lru_cache(maxsize=1024)
def foreign_matcher(pattern: str) -> Matcher:
    """Return what tells whether *pattern*, of a schema from elsewhere, is somewhere in a text.

    Raises:
        BadPattern: It is too long or takes too much, or it is none without looking around or back.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise BadPattern(f"{pattern[:50]!r}... is longer than {MAX_PATTERN_CHARS} characters")
    plain = _ESCAPE.sub(lambda found: _ASCII.get(found[1], found[0]), pattern)
    try:
        matcher = _compiled(plain)
        _compiled(f"(?:{plain}){{{_TIMES}}}")
    except SchemaError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise BadPattern(f"{pattern[:100]!r} cannot be matched in bounded time: {why[:200]}") from error
    return matcher


def _compiled(pattern: str) -> Matcher:
    validator = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    return lambda text: validator.isinstance_python(text, strict=True)
