"""Runs a worker: loads the tools of a file or module, serves them, drains on a signal."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from aegis_agent.adapters.remote.dialer import Dialer
from aegis_agent.adapters.remote.worker import RemoteWorker, WorkerOptions
from aegis_agent.adapters.tool_describer import import_fault, marked
from aegis_agent.manager import AgentManager
from aegis_common.errors import ConfigurationError


def serve_tools(source: str, dialer: Dialer, options: WorkerOptions, *, tell: Callable[[str], None]) -> None:
    """Serve the `@tool` functions of *source* until SIGTERM or SIGINT, then finish what runs.

    Args:
        source: Path of a Python file, or name of a module.
        dialer: How the agent is reached.
        options: Who this worker is.
        tell: Takes a line about what happens, for people.

    Raises:
        ConfigurationError: *source* cannot be imported, or has no tools.
        AegisError: A function cannot be a tool, or the agent refuses the worker.
    """
    functions = list(loaded(source))
    asyncio.run(_serve(functions, dialer, options, tell))


def loaded(source: str) -> Iterator[Callable[..., Any]]:
    """Yield the functions of a file or module that are marked with `tool`.

    Raises:
        ConfigurationError: It cannot be imported, or has none.
    """
    found = list(marked(_module(source)))
    if not found:
        raise ConfigurationError(f"{source} has no function that is marked with @tool", source=source)
    yield from found


def _module(source: str) -> ModuleType:
    path = Path(source)
    name = source
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigurationError(f"{source} is no file", source=source)
        # Children import it by this name too.
        name = path.stem
        sys.path.insert(0, str(path.resolve().parent))
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the file raises
        what = f"it cannot be imported: {import_fault(error, name, source)}"
        raise ConfigurationError(what, source=source) from error


async def _serve(
    functions: list[Callable[..., Any]],
    dialer: Dialer,
    options: WorkerOptions,
    tell: Callable[[str], None],
) -> None:
    async with AgentManager() as manager:
        for function in functions:
            manager.register_tool(function.__name__, function)
        await manager.warm_up()
        worker = RemoteWorker(manager.registry, dialer, options, tell)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        await worker.run()
