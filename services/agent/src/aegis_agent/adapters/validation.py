"""Checks arguments and results against JSON Schema 2020-12."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from aegis_agent.adapters.schema_keywords import (
    FORMATS,
    STEPS,
    ForeignValidator,
    OwnValidator,
    Steps,
    TooManySteps,
    shown,
)
from aegis_agent.adapters.schema_patterns import BadPattern
from aegis_agent.adapters.schemas import path_text
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import InvalidToolInput, InvalidToolOutput, Violation
from aegis_agent.domain.offload import count
from aegis_agent.domain.parts import ArtifactRef
from aegis_agent.domain.schema import holds_content, is_binary, member
from aegis_agent.domain.tool import JsonSchema, ToolSpec

_MAX_VIOLATIONS: Final = 10
# Variants inside variants, as in a tree of expressions, could take a number of steps that doubles with each
# level of the value.
_BASE_STEPS: Final = 5000
_STEPS_AN_ELEMENT: Final = 50
_MAX_ELEMENTS: Final = 1_000_000
_NOWHERE: Final[Registry[Any]] = Registry()
"""Knows no schemas and fetches none."""


def _left_out(value: Any) -> str:
    if isinstance(value, bytes | ArtifactRef):
        return ""
    raise TypeError(f"JSON has no form for {type(value).__name__}")


_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_left_out)


class SchemaChecks:
    """Checks for one tool.

    Args:
        spec: The tool's schemas.
        foreign: Whether somebody else wrote them, and `check_foreign` took them.
    """

    def __init__(self, spec: ToolSpec, *, foreign: bool = False) -> None:
        self._tool = spec.name
        self._schema = spec.input_schema
        made = ForeignValidator if foreign else OwnValidator
        self._input = made(_bare(spec.input_schema), format_checker=FORMATS, registry=_NOWHERE)
        self._output = made(_bare(spec.output_schema), registry=_NOWHERE)

    def input(self, arguments: Arguments) -> Arguments:
        decoding = _Decoding(self._schema)
        decoded = decoding.arguments(arguments)
        faults = decoding.faults
        faults += self._faults(self._input, decoded, _MAX_VIOLATIONS - len(faults))
        if faults:
            raise InvalidToolInput.of(self._tool, faults[:_MAX_VIOLATIONS])
        return decoded

    def output(self, value: Any) -> None:
        faults = _no_json(value) or self._faults(self._output, value, 1)
        if faults:
            raise InvalidToolOutput.of(self._tool, faults[0])

    def _faults(self, validator: Any, value: Any, limit: int) -> list[Violation]:
        """Return what is wrong with a value, up to *limit*; that it cannot be checked is a fault too."""
        try:
            with _steps(_BASE_STEPS + _STEPS_AN_ELEMENT * count(value, _MAX_ELEMENTS)):
                return [_violation(error) for error in islice(validator.iter_errors(value), max(0, limit))]
        except TooManySteps:
            fault = ("steps", "takes more work to check than a value of its size may; make it less nested")
        except BadPattern as error:
            fault = ("pattern", str(error))
        except RecursionError:
            fault = ("depth", "is nested too deep, or the schema refers to itself without end")
        except Unresolvable as error:
            fault = ("$ref", f"the schema refers to what it does not have: {str(error)[:80]}")
        except ArithmeticError:
            fault = ("number", "has a number that is too large")
        return [Violation("", *fault)]


def _no_json(value: Any) -> list[Violation]:
    """Return what keeps a value, bytes in it aside, from being sent as JSON."""
    try:
        _JSON.encode(value).encode()
    except UnicodeEncodeError:
        return [Violation("", "json", "it has half a surrogate pair, which is no character")]
    except (ValueError, TypeError, RecursionError) as error:
        return [Violation("", "json", str(error)[:200])]
    return []


@contextmanager
def _steps(left: int) -> Iterator[None]:
    token = STEPS.set(Steps(left))
    try:
        yield
    finally:
        STEPS.reset(token)


def _bare(schema: JsonSchema) -> JsonSchema:
    """Return a schema without `$schema`, which would have parts of it checked by another validator."""
    return {key: value for key, value in schema.items() if key != "$schema"}


class _Decoding:
    """Turns base64 text into bytes wherever a schema says that bytes are meant."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._holding: dict[int, bool] = {}
        self.faults: list[Violation] = []

    def arguments(self, arguments: Arguments) -> Arguments:
        known = self._root.get("properties", {})
        return {name: self._decoded(value, known.get(name), (name,)) for name, value in arguments.items()}

    def _decoded(self, value: Any, schema: Any, at: tuple[Any, ...]) -> Any:
        if isinstance(value, str):
            return self._bytes(value, at) if is_binary(schema, self._root) else value
        if not isinstance(value, list | dict) or not self._holds(schema):
            return value
        if isinstance(value, list):
            return [
                self._decoded(item, member(schema, self._root, value, i), (*at, i))
                for i, item in enumerate(value)
            ]
        return {
            name: self._decoded(item, member(schema, self._root, value, name), (*at, name))
            for name, item in value.items()
        }

    def _bytes(self, text: str, at: tuple[Any, ...]) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            self.faults.append(Violation(path_text(at), "contentEncoding", "the text is not base64"))
            return b""

    def _holds(self, schema: Any) -> bool:
        found = self._holding.get(id(schema))
        if found is None:
            found = self._holding[id(schema)] = holds_content(schema, self._root)
        return found


def _violation(error: ValidationError) -> Violation:
    """Return what is wrong, at the parameter that is missing rather than at its parent."""
    if error.validator == "anyOf":  # of the variants, one that names a media type says most
        error = next((item for item in error.context or () if item.validator == "contentMediaType"), error)
    path = tuple(error.absolute_path)
    value: Any = error.validator_value
    instance: Any = error.instance
    schema: Any = error.schema
    rule = str(error.validator or "type")
    if rule == "required":
        missing = next(name for name in value if name not in instance)
        return Violation(path_text((*path, missing)), rule, "is required and missing")
    if rule == "additionalProperties" and value is False:
        known = ", ".join(sorted(schema.get("properties", {}))) or "none"
        return Violation(path_text(path), rule, f"is no parameter of this tool; it takes {known}")
    return Violation(path_text(path), rule, _message(error))


def _message(error: ValidationError) -> str:
    if error.validator in ("type", "contentMediaType"):
        return error.message
    return f"{shown(error.instance)} breaks the rule {error.validator} = {shown(error.validator_value)}"
