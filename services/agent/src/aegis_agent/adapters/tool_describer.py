"""Inside a child: imports a file of tools and describes them, so that a broken file harms nobody."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Any

from aegis_agent.adapters.children.setup import importable
from aegis_agent.adapters.functions import is_marked, limits_of, options_of, spec_of
from aegis_agent.adapters.schemas import FunctionSchema
from aegis_agent.adapters.tool_json import spec_to_json
from aegis_agent.domain.errors import InvalidTool

TARGET = f"{__name__}:DescribedFile"


class DescribedFile:
    """A file of tools; a factory for a child, whose `about` is what the file brings.

    Args:
        module: Name under which the file can be imported.
        name: Name of the file, for messages.

    Raises:
        InvalidTool: It brings no tool, or one that cannot be one.
    """

    def __init__(self, module: str, name: str) -> None:
        self.about = [_described(function) for function in marked(_imported(module, name))]
        if not self.about:
            raise InvalidTool(f"{name} has no function that is marked with @tool", file=name)

    def __call__(self, *_: Any) -> None:
        """A description takes no calls."""
        raise InvalidTool("this process only describes tools")


def _imported(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the file raises
        raise InvalidTool(import_fault(error, module, name), file=name) from error


def import_fault(error: Exception, module: str, name: str) -> str:
    """Say what the import of *module* raised, and in which line of it; *name* is what people call it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = f"/{module.replace('.', '/')}.py"
    lines = [frame.lineno for frame in frames if frame.filename.endswith(own)]
    what: object = error
    if isinstance(error, SyntaxError) and (error.filename or "").endswith(own):
        lines, what = [error.lineno], error.msg
    where = f"{name}, line {lines[-1]}" if lines else name
    return f"{where}: {type(error).__name__}: {what}"


def marked(module: ModuleType) -> Iterator[Callable[..., Any]]:
    """Yield the functions of *module* itself that are marked with `tool`."""
    for item in list(vars(module).values()):
        if callable(item) and is_marked(item) and getattr(item, "__module__", "") == module.__name__:
            yield item


def _described(function: Callable[..., Any]) -> dict[str, Any]:
    options = options_of(function)
    spec = spec_of(function.__name__, function, options, FunctionSchema.of(function))
    return {
        "spec": spec_to_json(spec),
        "target": importable(function)[0],
        "warm_up": importable(options.warm_up)[0] if options.warm_up else "",
        "limits": asdict(limits_of(options)),
        "preload": list(options.preload),
    }
