"""Tools from other packages (entry points) and from the settings (`module:function`)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any, Final

from aegis_common.errors import ConfigurationError

GROUP: Final = "aegis.tools"
_log: Final = logging.getLogger(__name__)


def installed_tools() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield name and function of each entry point `aegis.tools`; one that cannot be imported is logged."""
    for entry in sorted(entry_points(group=GROUP), key=lambda item: item.name):
        try:
            function = entry.load()
        except Exception as error:  # a broken plugin must not take the others' tools away
            _log.exception("plugin cannot be loaded", extra={"plugin": entry.value, "error": str(error)})
            continue
        yield entry.name, function


def named_tools(names: Iterable[str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield name and function of each `module:function`, or `name=module:function`.

    Raises:
        ConfigurationError: One cannot be imported.
    """
    for item in names:
        alias, _, target = item.rpartition("=")
        module, _, attribute = target.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever the module raises
            raise ConfigurationError(
                f"tool {item!r} cannot be imported: {type(error).__name__}: {error}; write module:function "
                "or name=module:function",
                tool=item,
            ) from error
        yield alias or attribute, function
