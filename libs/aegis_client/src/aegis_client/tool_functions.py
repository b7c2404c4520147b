"""Tools as Python functions, with name, documentation and signature, for applications that want functions."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from aegis_client.errors import UsageError
from aegis_client.tool_events import bare

if TYPE_CHECKING:
    from aegis_client.tools import Tool, ToolResult

_KINDS: Final[dict[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "object": dict[str, Any],
    "array": list[Any],
    "null": None,
}

_DEPTH: Final = 8
"""How far lists in lists, and unions, are followed; a schema may refer to itself."""

Run = Callable[[str, dict[str, Any]], Any]
"""Takes the name of a tool and its arguments."""


def flat_name(name: str) -> str:
    """Return the tool's name as one that every language model API takes: letters, digits and `_`."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name.removeprefix("tools/"))


def by_flat_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Return the tools by their flat names.

    Raises:
        UsageError: Two tools would have one name.
    """
    found: dict[str, Tool] = {}
    for tool in tools:
        name = flat_name(tool.name)
        if name in found:
            raise UsageError(
                f"{found[name].name} and {tool.name} are both {name!r} as a function; choose one"
            )
        found[name] = tool
    return found


def make_function(name: str, tool: Tool, run: Run, *, waits: bool) -> Callable[..., Any]:
    """Return a function that runs *tool*; a coroutine function where *waits* is true."""
    names = _parameter_names(tool)
    signature = _signature(tool, names)
    properties = {parameter: key for key, parameter in names.items()}

    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = signature.bind(*args, **kwargs).arguments
        return {properties[parameter]: value for parameter, value in given.items()}

    async def later(*args: Any, **kwargs: Any) -> Any:
        return result_of(tool, await run(tool.name, bound(args, kwargs)))

    def now(*args: Any, **kwargs: Any) -> Any:
        return result_of(tool, run(tool.name, bound(args, kwargs)))

    made: Any = later if waits else now
    made.__name__ = made.__qualname__ = name
    made.__module__ = __name__
    made.__doc__ = _documentation(tool, names)
    made.__signature__ = signature
    made.__annotations__ = {
        **{item.name: item.annotation for item in signature.parameters.values()},
        "return": signature.return_annotation,
    }
    function: Callable[..., Any] = made
    return function


def result_of(tool: Tool, result: ToolResult) -> Any:
    """Return what the tool itself gave; a JSON value that is no object comes without one around it."""
    if tool.output_schema.get("type") == "object":
        return result.value
    return bare(result.parts)


def _parameter_names(tool: Tool) -> dict[str, str]:
    """Return for each parameter a name that Python takes: `from_` for `from`, `a_b` for `a-b`."""
    found: dict[str, str] = {}
    for key in tool.input_schema.get("properties", {}):
        name = key if key.isidentifier() else re.sub(r"\W|^(?=\d)", "_", key) or "_"
        while keyword.iskeyword(name) or name in found.values():
            name += "_"
        found[key] = name
    return found


def _signature(tool: Tool, names: Mapping[str, str]) -> inspect.Signature:
    required = set(tool.input_schema.get("required", ()))
    properties: Mapping[str, Any] = tool.input_schema.get("properties", {})
    parameters = [
        inspect.Parameter(
            names[name],
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if name in required else _default(schema),
            annotation=python_type(schema, tool.input_schema, optional=name not in required),
        )
        for name, schema in sorted(properties.items(), key=lambda item: item[0] not in required)
    ]
    given = python_type(tool.output_schema, tool.output_schema)
    return inspect.Signature(parameters, return_annotation=given)


def _default(schema: Any) -> Any:
    return schema.get("default") if isinstance(schema, Mapping) else None


def python_type(schema: Any, root: Mapping[str, Any], *, optional: bool = False, depth: int = _DEPTH) -> Any:
    """Return the Python type that comes nearest to a JSON Schema."""
    schema = _resolved(schema, root)
    found = _bare_type(schema, root, depth - 1) if depth else Any
    if optional and "default" not in schema and found is not Any:
        return found | None
    return found


def _bare_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if "anyOf" in schema:
        return _union([python_type(item, root, depth=depth) for item in schema["anyOf"]])
    if "enum" in schema and all(isinstance(item, str | int | bool | None) for item in schema["enum"]):
        return Literal[tuple(schema["enum"])]
    if schema.get("contentEncoding") == "base64":
        return bytes
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union([_KINDS.get(item, Any) for item in kind])
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        item = python_type(schema["items"], root, depth=depth)
        return list[item]  # type: ignore[valid-type]  # made at run time
    return _KINDS.get(str(kind), Any)


def _union(types: list[Any]) -> Any:
    if not types or Any in types:
        return Any
    found = types[0]
    for item in types[1:]:
        found = item if found is None and item is None else (found | item)
    return found


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return {}
        reference = str(schema.get("$ref", ""))
        if not reference.startswith("#/$defs/"):
            return schema
        schema = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
    return {}


def _documentation(tool: Tool, names: Mapping[str, str]) -> str:
    """Return the description with a list of the parameters, as frameworks read them."""
    properties: Mapping[str, Any] = tool.input_schema.get("properties", {})
    described = {
        name: _resolved(item, tool.input_schema).get("description") for name, item in properties.items()
    }
    lines = [f"    {names[name]}: {text}" for name, text in described.items() if text]
    head = tool.description or f"Runs {tool.name}."
    return head + ("\n\nArgs:\n" + "\n".join(lines) + "\n" if lines else "")
