"""JSON Schema from type hints, and the way between JSON values and a function's own types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ArgsKwargs, PydanticSerializationError, core_schema, to_jsonable_python

from aegis_agent.adapters.signatures import Signature
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import InvalidTool, Violation
from aegis_agent.domain.tool import JsonSchema

_KNOWN_TYPES: Final = (
    "JSON types, bytes, dataclasses, pydantic models and the content of aegis_agent have one"
)


class ToolInputError(ValueError):
    """A tool raises this when its input fits the schema and is wrong all the same.

    Args:
        message: What is wrong and how to mend it; the caller reads it.
        path: Parameter, for example `image`.
        rule: Short name of the rule that is broken, for example `maxPixels`.
    """

    def __init__(self, message: str, *, path: str = "", rule: str = "value") -> None:
        super().__init__(message)
        self.violations = [Violation(path, rule, message)]


class BadInput(Exception):
    """Arguments that the function's type hints refuse."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__(violations[0].message)
        self.violations = violations


class BadOutput(Exception):
    """A result that the function's type hints refuse, or that has no JSON form."""

    def __init__(self, message: str, *, rule: str = "type") -> None:
        super().__init__(message)
        self.rule = rule


class _Generator(GenerateJsonSchema):
    """Draft 2020-12, with raw bytes as base64 text and without titles made from names."""

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:  # noqa: ARG002
        return {"type": "string", "contentEncoding": "base64"}

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


@dataclass(frozen=True, slots=True)
class FunctionSchema:
    """A function as a tool sees it.

    Attributes:
        input: JSON Schema of its parameters, without the one that takes the context.
        output: JSON Schema of its result; of the list of all items when it streams.
        context: Name of the parameter that takes the call's context, or empty.
        streams: Whether it gives its result item by item.
    """

    input: JsonSchema
    output: JsonSchema
    context: str
    streams: bool
    _arguments: TypeAdapter[Any]
    _result: TypeAdapter[Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> FunctionSchema:
        """Read the type hints of *function*.

        Raises:
            InvalidTool: A parameter or a type hint cannot be described.
        """
        name = getattr(function, "__qualname__", repr(function))
        try:
            signature = Signature.of(function)
            collector: Any = signature.collector
            arguments: TypeAdapter[Any] = TypeAdapter(collector)
            result: TypeAdapter[Any] = TypeAdapter(signature.result)
            whole = TypeAdapter(list[signature.result]) if signature.streams else result  # type: ignore[name-defined]
            return cls(
                arguments.json_schema(schema_generator=_Generator),
                whole.json_schema(schema_generator=_Generator, mode="serialization"),
                signature.context,
                signature.streams,
                arguments,
                result,
            )
        except (PydanticUserError, NameError, TypeError, ValueError) as error:
            # pydantic's message, without its advice about pydantic's own settings and its link
            told = str(getattr(error, "message", error)).split("\n", 1)[0].split(". Set `", 1)[0]
            what = f"its type hints cannot be read: {told}; {_KNOWN_TYPES}"
            raise InvalidTool(f"function {name}: {what}", function=name) from error

    def bind(self, arguments: Arguments, context: Any = None) -> dict[str, Any]:
        """Turn JSON values and bytes into what the function expects, and add its context if it takes one.

        Raises:
            BadInput: They do not fit.
        """
        try:
            bound: dict[str, Any] = self._arguments.validate_python(ArgsKwargs((), arguments))
        except ValidationError as error:
            raise BadInput(
                [Violation(path_text(item["loc"]), item["type"], item["msg"]) for item in error.errors()]
            ) from error
        return {**bound, self.context: context} if self.context else bound

    def dump(self, value: Any) -> Any:
        """Turn the function's result into JSON values and bytes; not for one that streams.

        Raises:
            BadOutput: It does not fit, or has no JSON form.
        """
        return self.dump_item(value)

    def dump_item(self, value: Any) -> Any:
        """Turn one item that the function yielded into JSON values and bytes.

        Raises:
            BadOutput: It does not fit, or has no JSON form.
        """
        try:
            checked = self._result.validate_python(value)
            return _plain(self._result.dump_python(checked, warnings="error"))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadOutput(": ".join(filter(None, (path_text(first["loc"]), first["msg"])))) from error
        except (PydanticSerializationError, RecursionError) as error:
            raise BadOutput(str(error)[:200]) from error


def path_text(location: tuple[Any, ...]) -> str:
    """Return a path such as `items[2].name`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, Content):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping):
        return {_key(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return to_jsonable_python(value)


def _key(name: Any) -> str:
    return name if isinstance(name, str) else str(to_jsonable_python(name))
