"""Our form of JSON Schema 2020-12: raw bytes are values, and no keyword takes more than bounded time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from aegis_agent.adapters.foreign_schemas import UNSUPPORTED
from aegis_agent.adapters.schema_patterns import BadPattern, Matcher, foreign_matcher, own_matcher
from aegis_agent.domain.content import fault_of
from aegis_agent.domain.schema import ARTIFACT_FORMAT

MAX_PATTERN_TEXT: Final = 16 << 10
"""Longest text, in characters, that a pattern from elsewhere is matched with."""
_MAX_SHOWN: Final = 80
_PUT: Final = "store it first (aegis artifacts put) and give its name, artifacts/{sha256}"
_CHARS_A_STEP: Final = 128

Errors = Iterator[ValidationError]
Keyword = Callable[[Any, Any, Any, Mapping[str, Any]], Iterable[ValidationError] | None]


class TooManySteps(Exception):
    """A check takes more than it may."""


class Steps:
    """How much work the check of one value may still take; one applied keyword is a step."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, count: int = 1) -> None:
        """Take *count* of them.

        Raises:
            TooManySteps: There are not so many.
        """
        self._left -= count
        if self._left < 0:
            raise TooManySteps


STEPS: Final[ContextVar[Steps]] = ContextVar("aegis_schema_steps")
"""What a check may take; set around each."""


FORMATS: Final = FormatChecker()
"""What `format` asks for in arguments."""


@FORMATS.checks("regex", raises=(re.error, OverflowError, RecursionError))
def _is_regex(value: object) -> bool:
    return not isinstance(value, str) or (len(value) <= MAX_PATTERN_TEXT and bool(re.compile(value)))


def shown(value: Any) -> str:
    """Return *value* for a message, at most 80 characters."""
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _type(validator: Any, types: Any, instance: Any, schema: Mapping[str, Any]) -> Errors:
    wanted = [types] if isinstance(types, str) else types
    if isinstance(instance, bytes):
        if schema.get("format") == ARTIFACT_FORMAT:
            yield ValidationError(f"{shown(instance)} where an artifact is expected; {_PUT}")
        elif "string" not in wanted or schema.get("contentEncoding") != "base64":
            yield ValidationError(f"raw bytes where {' or '.join(wanted)} is expected")
    elif not any(validator.is_type(instance, kind) for kind in wanted):
        yield ValidationError(f"{shown(instance)} is not of type {' or '.join(wanted)}")


def _media_type(_validator: Any, wanted: Any, instance: Any, _schema: Mapping[str, Any]) -> Errors:
    fault = fault_of(instance, wanted) if isinstance(instance, bytes) else ""
    if fault:
        yield ValidationError(fault)


def _unique(_validator: Any, wanted: Any, instance: Any, _schema: Mapping[str, Any]) -> Errors:
    """Compare by hashing: the library's way takes the square of the number of items."""
    if wanted and isinstance(instance, list) and len({_key(item) for item in instance}) < len(instance):
        yield ValidationError("two of the items are equal", validator="uniqueItems")


def _key(value: Any) -> Any:
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return ("list", tuple(_key(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(item)) for name, item in value.items()))
    return value


class _Patterns:
    """The keywords that match texts with patterns."""

    def __init__(self, matcher: Callable[[str], Matcher], *, bounded: bool) -> None:
        self._matcher = matcher
        self._bounded = bounded

    def keywords(self) -> dict[str, Keyword]:
        return {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
        }

    def _pattern(self, _validator: Any, pattern: str, instance: Any, _schema: Mapping[str, Any]) -> Errors:
        if isinstance(instance, str) and not self._found(pattern, instance):
            yield ValidationError(f"{shown(instance)} does not match {shown(pattern)}")

    def _pattern_properties(
        self, validator: Any, patterns: Mapping[str, Any], instance: Any, _schema: Mapping[str, Any]
    ) -> Errors:
        if isinstance(instance, dict):
            for pattern, schema in patterns.items():
                for name, item in instance.items():
                    if self._found(pattern, name):
                        yield from validator.descend(item, schema, path=name, schema_path=pattern)

    def _additional_properties(
        self, validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Errors:
        if not isinstance(instance, dict):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        extra = [
            name
            for name in instance
            if name not in known and not any(self._found(pattern, name) for pattern in patterns)
        ]
        if isinstance(allowed, dict):
            for name in extra:
                yield from validator.descend(instance[name], allowed, path=name)
        elif allowed is False:
            for name in extra:
                yield ValidationError(f"{shown(name)} is no property of it", path=(name,))

    def _found(self, pattern: str, text: str) -> bool:
        if self._bounded:
            STEPS.get().take(len(text) // _CHARS_A_STEP)
            if len(text) > MAX_PATTERN_TEXT:
                raise BadPattern(
                    f"a text is longer than {MAX_PATTERN_TEXT} characters, the most for a pattern"
                )
        return self._matcher(pattern)(text)


def _unsupported(_validator: Any, _wanted: Any, _instance: Any, _schema: Mapping[str, Any]) -> Errors:
    yield ValidationError("the schema has a keyword that is not supported")


def _counted(keyword: Keyword) -> Keyword:
    def counted(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Any:
        STEPS.get().take()
        return keyword(validator, value, instance, schema)

    return counted


_OURS: Final[dict[str, Any]] = {"type": _type, "contentMediaType": _media_type, "uniqueItems": _unique}


def _validator(patterns: _Patterns, more: Mapping[str, Keyword]) -> Any:
    keywords = {**Draft202012Validator.VALIDATORS, **_OURS, **patterns.keywords(), **more}
    counted = {name: _counted(keyword) for name, keyword in keywords.items()}
    return extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]


OwnValidator: Final = _validator(_Patterns(own_matcher, bounded=False), {})
"""For schemas that come with our own code."""
ForeignValidator: Final = _validator(
    _Patterns(foreign_matcher, bounded=True), dict.fromkeys(UNSUPPORTED, _unsupported)
)
"""For schemas from elsewhere."""
