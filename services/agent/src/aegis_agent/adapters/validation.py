"""Checks arguments and results against JSON Schema 2020-12."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from aegis_agent.adapters.schemas import path_text
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.content import fault_of
from aegis_agent.domain.errors import InvalidToolInput, InvalidToolOutput, Violation
from aegis_agent.domain.schema import holds_content, is_binary, member
from aegis_agent.domain.tool import ToolSpec

_MAX_VIOLATIONS: Final = 10
_MAX_SHOWN: Final = 80


def _type(validator: Any, types: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    wanted = [types] if isinstance(types, str) else types
    if isinstance(instance, bytes):
        if "string" not in wanted or schema.get("contentEncoding") != "base64":
            yield ValidationError(f"raw bytes where {' or '.join(wanted)} is expected")
    elif not any(validator.is_type(instance, kind) for kind in wanted):
        yield ValidationError(f"{_shown(instance)} is not of type {' or '.join(wanted)}")


def _media_type(
    validator: Any,  # noqa: ARG001
    wanted: Any,
    instance: Any,
    schema: Mapping[str, Any],  # noqa: ARG001
) -> Iterator[ValidationError]:
    fault = fault_of(instance, wanted) if isinstance(instance, bytes) else ""
    if fault:
        yield ValidationError(fault)


_Validator: Final[Any] = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"type": _type, "contentMediaType": _media_type}
)


class SchemaChecks:
    """Checks for one tool.

    Args:
        spec: The tool's schemas.
    """

    def __init__(self, spec: ToolSpec) -> None:
        self._tool = spec.name
        self._schema = spec.input_schema
        self._input = _Validator(spec.input_schema, format_checker=FormatChecker())
        self._output = _Validator(spec.output_schema)

    def input(self, arguments: Arguments) -> Arguments:
        faults: list[Violation] = []
        decoded = {
            name: _decoded(value, self._schema.get("properties", {}).get(name), self._schema, (name,), faults)
            for name, value in arguments.items()
        }
        for error in self._input.iter_errors(decoded):
            faults.extend(_violations(error))
            if len(faults) >= _MAX_VIOLATIONS:
                break
        if faults:
            raise InvalidToolInput.of(self._tool, faults)
        return decoded

    def output(self, value: Any) -> None:
        error = next(self._output.iter_errors(value), None)
        if error is not None:
            raise InvalidToolOutput.of(self._tool, _violations(error)[0])


def _decoded(
    value: Any, schema: Any, root: Mapping[str, Any], at: tuple[Any, ...], faults: list[Violation]
) -> Any:
    """Turn base64 text into bytes wherever the schema says that bytes are meant."""
    if isinstance(value, str):
        if not is_binary(schema, root):
            return value
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            faults.append(Violation(path_text(at), "contentEncoding", "the text is not base64"))
            return b""
    if not isinstance(value, list | dict) or not holds_content(schema, root):
        return value
    if isinstance(value, list):
        return [
            _decoded(item, member(schema, root, value, i), root, (*at, i), faults)
            for i, item in enumerate(value)
        ]
    return {
        name: _decoded(item, member(schema, root, value, name), root, (*at, name), faults)
        for name, item in value.items()
    }


def _violations(error: ValidationError) -> list[Violation]:
    """Return what is wrong, at the parameter that is missing or unknown rather than at its parent."""
    if error.validator == "anyOf":  # of the variants, one that names a media type says most
        error = next((item for item in error.context or () if item.validator == "contentMediaType"), error)
    path = tuple(error.absolute_path)
    value: Any = error.validator_value
    instance: Any = error.instance
    schema: Any = error.schema
    rule = str(error.validator or "type")
    if rule == "required":
        missing = [name for name in value if name not in instance]
        return [Violation(path_text((*path, name)), rule, "is required and missing") for name in missing[:1]]
    if rule == "additionalProperties" and value is False:
        known = sorted(schema.get("properties", {}))
        extra = [name for name in instance if name not in known]
        hint = f"is no parameter of this tool; it takes {', '.join(known) or 'none'}"
        return [Violation(path_text((*path, name)), rule, hint) for name in extra]
    return [Violation(path_text(path), rule, _message(error))]


def _message(error: ValidationError) -> str:
    if error.validator in ("type", "contentMediaType"):
        return error.message
    return f"{_shown(error.instance)} breaks the rule {error.validator} = {_shown(error.validator_value)}"


def _shown(value: Any) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
