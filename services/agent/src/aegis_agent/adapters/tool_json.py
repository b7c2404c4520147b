"""What is told about a tool, as JSON between processes."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any, Final

from aegis_agent.domain.call import Priority
from aegis_agent.domain.tool import RunsIn, ToolSpec

_TIMES: Final = frozenset({"default_timeout", "max_timeout", "queue_timeout", "grace"})
_SETS: Final = frozenset({"roles", "tenants"})


def spec_to_json(spec: ToolSpec) -> dict[str, Any]:
    """Return *spec* as JSON values; times in seconds."""
    return {field.name: _plain(getattr(spec, field.name)) for field in fields(spec)}


def spec_from_json(value: dict[str, Any]) -> ToolSpec:
    """Return the spec that `spec_to_json` described.

    Raises:
        InvalidTool: A value is out of range.
        TypeError, ValueError: It is no description of a tool.
    """
    return ToolSpec(**{name: _typed(name, item) for name, item in value.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Priority | RunsIn):
        return value.value
    if isinstance(value, frozenset | tuple):
        return sorted(value)
    return value


def _typed(name: str, value: Any) -> Any:
    if name in _TIMES:
        return None if value is None else timedelta(seconds=value)
    if name in _SETS:
        return frozenset(value)
    if name == "tags":
        return tuple(value)
    if name == "priority":
        return Priority(value)
    return RunsIn(value) if name == "runs_in" else value
