"""Serves the tools of Python files: imported in a child first, put in and taken out in one step."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup
from aegis_agent.adapters.functions import function_tool, options_of
from aegis_agent.adapters.tool_describer import TARGET
from aegis_agent.adapters.tool_json import spec_from_json
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.errors import InvalidTool, ToolFailed, ToolNameTaken, UnknownTool
from aegis_agent.domain.registry import EVERYONE
from aegis_agent.domain.tool import RunsIn, Tool
from aegis_agent.domain.tool_files import FileId
from aegis_agent.manager import AgentManager

MAX_TOOLS: Final = 64
"""Most tools of one file."""
_PREFIX: Final = "aegis_tool_file"
_IMPORT_S: Final = 20.0
_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Prepared:
    """The tools of a content, ready to be served.

    Attributes:
        file: Whose content it is.
        digest: SHA-256 of the content.
        module: Name under which this process may have imported it.
        tools: Its tools.
    """

    file: FileId
    digest: str
    module: str
    tools: list[Tool] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(tool.spec.name for tool in self.tools))

    async def discard(self) -> None:
        """End what was made ready; it is not served."""
        await asyncio.gather(*(tool.runner.close() for tool in self.tools), return_exceptions=True)
        sys.modules.pop(self.module, None)


@dataclass(frozen=True, slots=True)
class _Served:
    tools: tuple[str, ...]
    module: str


class FileHost:
    """Serves files for their owners; use as `async with`.

    Args:
        manager: Who serves the tools.
        children_only: Whether tools that would run in this process are refused.
    """

    def __init__(self, manager: AgentManager, *, children_only: bool = False) -> None:
        self._manager = manager
        self._children_only = children_only
        self._served: dict[FileId, _Served] = {}
        self._snapshots = Path()

    async def __aenter__(self) -> Self:
        self._snapshots = Path(tempfile.mkdtemp(prefix="aegis-tools-"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for served in self._served.values():
            sys.modules.pop(served.module, None)
        await asyncio.to_thread(shutil.rmtree, self._snapshots, ignore_errors=True)

    def tools(self, file: FileId) -> tuple[str, ...]:
        """Return the names of the tools that are served from a file."""
        served = self._served.get(file)
        return served.tools if served else ()

    async def prepare(self, file: FileId, content: bytes) -> Prepared:
        """Make the tools of a content ready; children import a copy of it, whatever becomes of the file.

        Raises:
            InvalidTool: It brings no tool, too many, one that cannot be one, or one that may not be here.
            ToolFailed, ToolCrashed: It cannot be imported, or a tool cannot be made ready.
            ToolNameTaken: Something else has the name of one of its tools.
        """
        digest = hashlib.sha256(content).hexdigest()
        prepared = Prepared(file, digest, f"{_PREFIX}_{Path(file.name).stem}_{digest[:16]}")
        path = self._snapshots / f"{prepared.module}.py"
        await asyncio.to_thread(path.write_bytes, content)
        try:
            described = await self._described(file, prepared.module)
            for about in described:
                prepared.tools.append(await self._tool(about, prepared.module, path))
            self._check_names(prepared)
            await self._manager.make_ready(*prepared.tools)
        except BaseException:
            await prepared.discard()
            raise
        return prepared

    async def commit(self, prepared: Prepared) -> None:
        """Serve prepared tools in the place of those that the file brought before.

        Raises:
            ToolNameTaken: Something else has the name of one of them by now; the old ones go on.
        """
        file, names = prepared.file, prepared.names
        before = self._served.get(file, _Served((), ""))
        try:
            self._check_names(prepared)
            self._manager.put_in(*prepared.tools, owner=file.owner)
        except BaseException:
            await prepared.discard()
            raise
        self._retire(file.owner, set(before.tools) - set(names))
        if before.module != prepared.module:
            sys.modules.pop(before.module, None)
        self._served[file] = _Served(names, prepared.module)
        extra = {"file": file.name, "tools": ", ".join(names), "sha256": prepared.digest}
        _log.info("tool file taken over", extra=extra | _whose(file))

    def remove(self, file: FileId) -> None:
        """Take out what a file brought; calls that run or wait there end."""
        served = self._served.pop(file, None)
        if served is None:
            return
        self._retire(file.owner, served.tools)
        sys.modules.pop(served.module, None)
        _log.info(
            "tool file removed", extra={"file": file.name, "tools": ", ".join(served.tools)} | _whose(file)
        )

    def _check_names(self, prepared: Prepared) -> None:
        registry, owner = self._manager.registry, prepared.file.owner
        for name in prepared.names:
            taken = registry.owned(name, owner=EVERYONE) or registry.owned(name, owner=owner)
            if taken is not None and name not in self.tools(prepared.file):
                raise ToolNameTaken(f"there is a tool {name!r} already", tool=name)

    def _retire(self, owner: str, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(UnknownTool):  # somebody else was quicker
                self._manager.retire_tool(name, owner=owner)

    async def _described(self, file: FileId, module: str) -> list[dict[str, Any]]:
        setup = WorkerSetup(
            target=TARGET,
            factory=True,
            options={"module": module, "name": file.name},
            search_path=self._search_path,
        )
        pool = WorkerPool(f"file {file.name}", self._manager.fork_server, setup, size=1)
        try:
            async with asyncio.timeout(_IMPORT_S):
                found: list[dict[str, Any]] = await pool.start()
        except TimeoutError as error:
            raise ToolFailed(f"its import takes longer than {_IMPORT_S:g} s", file=file.name) from error
        finally:
            await pool.close()
        if len(found) > MAX_TOOLS:
            raise InvalidTool(f"{file.name} brings {len(found)} tools; at most {MAX_TOOLS}", file=file.name)
        return found

    async def _tool(self, about: dict[str, Any], module: str, path: Path) -> Tool:
        spec = spec_from_json(about["spec"])
        if spec.runs_in is RunsIn.LOOP:
            return await self._tool_of_loop(spec.name, module, path)
        self._manager.fork_server.preload(tuple(about["preload"]))
        setup = WorkerSetup(
            target=about["target"],
            warm_up=about["warm_up"],
            limits=WorkerLimits(**about["limits"]),
            search_path=self._search_path,
        )
        pool = WorkerPool(spec.name, self._manager.fork_server, setup, size=spec.concurrency)
        return Tool(spec=spec, runner=pool, checks=SchemaChecks(spec))

    async def _tool_of_loop(self, name: str, module: str, path: Path) -> Tool:
        if self._children_only:
            raise InvalidTool(
                f"{name!r} is an `async def`, which would run in the agent's own process; make it a `def`",
                tool=name,
            )
        try:
            function = getattr(await asyncio.to_thread(_imported, module, path), name)
        except Exception as error:  # whatever the file raises
            raise ToolFailed(f"its import fails: {type(error).__name__}: {error}", file=path.name) from error
        return function_tool(name, function, options_of(function), self._manager.fork_server)

    @property
    def _search_path(self) -> tuple[str, ...]:
        return (str(self._snapshots), *sys.path)


def _whose(file: FileId) -> dict[str, str]:
    return {} if file.owner == EVERYONE else {"tenant": file.owner}


def _imported(module: str, path: Path) -> Any:
    found = sys.modules.get(module)
    if found is not None:
        return found
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    made = sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
