"""Tools as the definitions that language model APIs take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from aegis_client.errors import UsageError
from aegis_client.tool_functions import by_flat_name

if TYPE_CHECKING:
    from aegis_client.tools import Tool


def export(tools: Iterable[Tool], form: str) -> list[dict[str, Any]]:
    """Return the tools' definitions, by name.

    Args:
        tools: What to export.
        form: `openai` (Chat Completions `tools`), `anthropic` (Messages `tools`), or `json-schema` (name,
            description, and the schemas of input and output).

    Raises:
        UsageError: There is no such form, or two tools would have one name. APIs take letters, digits and `_`
            only; other characters of a name become `_`.
    """
    if form not in _FORMS:
        raise UsageError(f"format {form!r} is not one of {', '.join(_FORMS)}")
    return [_FORMS[form](name, tool) for name, tool in sorted(by_flat_name(tools).items())]


def _openai(name: str, tool: Tool) -> dict[str, Any]:
    function = {"name": name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _anthropic(name: str, tool: Tool) -> dict[str, Any]:
    return {"name": name, "description": tool.description, "input_schema": tool.input_schema}


def _json_schema(name: str, tool: Tool) -> dict[str, Any]:
    return {
        "name": name,
        "description": tool.description,
        "input": tool.input_schema,
        "output": tool.output_schema,
    }


_FORMS: Final[dict[str, Callable[[str, Tool], dict[str, Any]]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "json-schema": _json_schema,
}
FORMS: Final = tuple(_FORMS)
