"""Tools from a folder of Python files: taken over when a file is added, changed or removed."""

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
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup
from aegis_agent.adapters.functions import function_tool, options_of
from aegis_agent.adapters.tool_describer import TARGET
from aegis_agent.adapters.tool_json import spec_from_json
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.errors import ToolFailed, ToolNameTaken, UnknownTool
from aegis_agent.domain.registry import EVERYONE
from aegis_agent.domain.tool import RunsIn, Tool
from aegis_agent.manager import AgentManager
from aegis_common.background import Every
from aegis_common.errors import AegisError, ConfigurationError

INTERVAL: Final = timedelta(seconds=1)
_PREFIX: Final = "aegis_tool_file"
_IMPORT_S: Final = 20.0
_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """One file as it was last looked at.

    Attributes:
        stamp: Times and size, to see a change without reading.
        digest: Of the content that was last tried.
        tools: Names of the tools that are served from it.
        module: Name under which this process has imported it, or empty.
        fault: Why the content that was last tried is not served, or empty.
    """

    stamp: tuple[int, ...] = ()
    digest: str = ""
    tools: tuple[str, ...] = ()
    module: str = ""
    fault: str = ""


@dataclass(slots=True)
class _Loaded:
    module: str
    tools: list[Tool] = field(default_factory=list)


class ToolFolder:
    """Serves the tools of the files `*.py` of a folder; use as `async with`.

    A file stands by itself: it imports installed packages, and no other file of the folder. Files whose names
    begin with `_` or `.` are left alone. A new content is imported in a child first. Its tools are made
    ready, and then all of them take the place of the old ones in one step. A file that is broken is reported
    once, and what it brought before goes on.

    Args:
        manager: Who serves the tools.
        folder: Where the files lie.
        interval: Time between two looks.
    """

    def __init__(self, manager: AgentManager, folder: Path, *, interval: timedelta = INTERVAL) -> None:
        self._manager = manager
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._snapshots = Path()
        self._swapping = asyncio.Lock()
        self._every = Every(interval, self.look, name="tool-folder")

    @property
    def faults(self) -> dict[str, str]:
        """Name of each file whose present content is not served, and why."""
        return {name: file.fault for name, file in self._files.items() if file.fault}

    async def __aenter__(self) -> Self:
        if not self._folder.is_dir():
            raise ConfigurationError(f"tools_dir {self._folder} is no folder", tools_dir=str(self._folder))
        self._snapshots = Path(tempfile.mkdtemp(prefix="aegis-tools-"))
        await self.look()
        await self._every.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._every.__aexit__(*exception)
        for file in self._files.values():
            sys.modules.pop(file.module, None)
        await asyncio.to_thread(shutil.rmtree, self._snapshots, ignore_errors=True)

    async def look(self) -> None:
        """Take over what has changed since the last time."""
        present = await asyncio.to_thread(_stamps, self._folder)
        for name in sorted(self._files.keys() - present.keys()):
            self._take_out(name, self._files.pop(name))
        changed = [name for name, stamp in present.items() if self._file(name).stamp != stamp]
        await asyncio.gather(*(self._try(name, self._file(name)) for name in sorted(changed)))
        for name in changed:
            self._file(name).stamp = present[name]

    def _file(self, name: str) -> _File:
        return self._files.setdefault(name, _File())

    async def _try(self, name: str, file: _File) -> None:
        try:
            content = await asyncio.to_thread((self._folder / name).read_bytes)
        except OSError as error:
            self._refuse(name, file, f"it cannot be read: {error.strerror}")
            return
        digest = hashlib.sha256(content).hexdigest()
        if digest == file.digest:
            return
        file.digest = digest
        try:
            await self._take_over(name, file, content)
        except AegisError as error:
            self._refuse(name, file, error.message)
        except Exception as error:
            _log.exception("tool file %s: unforeseen error", name)
            self._refuse(name, file, f"unforeseen {type(error).__name__}; the log has the details")

    def _refuse(self, name: str, file: _File, why: str) -> None:
        file.fault = why
        goes_on = ", ".join(file.tools) or "none"
        _log.error("tool file is not taken over", extra={"file": name, "error": why, "tools_kept": goes_on})

    async def _take_over(self, name: str, file: _File, content: bytes) -> None:
        loaded = await self._load(name, file.digest, content)
        names = tuple(sorted(tool.spec.name for tool in loaded.tools))
        async with self._swapping:
            try:
                self._check_names(set(names) - set(file.tools))
                await self._manager.take_over(*loaded.tools)
            except BaseException:
                await _closed(loaded)
                raise
        self._retire(set(file.tools) - set(names))
        sys.modules.pop(file.module, None)
        file.tools, file.module, file.fault = names, loaded.module, ""
        extra = {"file": name, "tools": ", ".join(names), "sha256": file.digest}
        _log.info("tool file taken over", extra=extra)

    def _check_names(self, new: set[str]) -> None:
        for name in sorted(new):
            if self._manager.registry.owned(name, owner=EVERYONE) is not None:
                raise ToolNameTaken(f"there is a tool {name!r} already", tool=name)

    def _retire(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(UnknownTool):  # somebody else was quicker
                self._manager.retire_tool(name)

    def _take_out(self, name: str, file: _File) -> None:
        self._retire(file.tools)
        sys.modules.pop(file.module, None)
        _log.info("tool file removed", extra={"file": name, "tools": ", ".join(file.tools)})

    async def _load(self, name: str, digest: str, content: bytes) -> _Loaded:
        """Return the tools of a content; children import a copy of it, whatever becomes of the file."""
        module = f"{_PREFIX}_{Path(name).stem}_{digest[:16]}"
        path = self._snapshots / f"{module}.py"
        await asyncio.to_thread(path.write_bytes, content)
        loaded = _Loaded(module)
        try:
            for about in await self._described(name, module):
                loaded.tools.append(await self._tool(about, module, path))
        except BaseException:
            await _closed(loaded)
            raise
        return loaded

    async def _described(self, name: str, module: str) -> list[dict[str, Any]]:
        setup = WorkerSetup(
            target=TARGET,
            factory=True,
            options={"module": module, "name": name},
            search_path=self._search_path,
        )
        pool = WorkerPool(f"file {name}", self._manager.fork_server, setup, size=1)
        try:
            async with asyncio.timeout(_IMPORT_S):
                found: list[dict[str, Any]] = await pool.start()
        except TimeoutError as error:
            raise ToolFailed(f"its import takes longer than {_IMPORT_S:g} s", file=name) from error
        finally:
            await pool.close()
        return found

    async def _tool(self, about: dict[str, Any], module: str, path: Path) -> Tool:
        spec = spec_from_json(about["spec"])
        self._manager.fork_server.preload(tuple(about["preload"]))
        if spec.runs_in is RunsIn.LOOP:
            try:
                function = getattr(await asyncio.to_thread(_imported, module, path), spec.name)
            except Exception as error:  # whatever the file raises
                raise ToolFailed(
                    f"its import fails: {type(error).__name__}: {error}", file=path.name
                ) from error
            return function_tool(spec.name, function, options_of(function), self._manager.fork_server)
        setup = WorkerSetup(
            target=about["target"],
            warm_up=about["warm_up"],
            limits=WorkerLimits(**about["limits"]),
            search_path=self._search_path,
        )
        pool = WorkerPool(spec.name, self._manager.fork_server, setup, size=spec.concurrency)
        return Tool(spec=spec, runner=pool, checks=SchemaChecks(spec))

    @property
    def _search_path(self) -> tuple[str, ...]:
        return (str(self._snapshots), *sys.path)


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.py"):
        if path.name[0] in "_.":
            continue
        try:
            status = path.stat()
        except OSError:
            continue  # it has gone in this moment
        found[path.name] = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    return found


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


async def _closed(loaded: _Loaded) -> None:
    await asyncio.gather(*(tool.runner.close() for tool in loaded.tools), return_exceptions=True)
    sys.modules.pop(loaded.module, None)
