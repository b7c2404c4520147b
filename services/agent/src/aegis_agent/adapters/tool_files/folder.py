"""Tools from a folder of Python files: taken over when a file is added, changed or removed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from aegis_agent.adapters.tool_files.host import FileHost
from aegis_agent.domain.registry import EVERYONE
from aegis_agent.domain.tool_files import FileId
from aegis_agent.manager import AgentManager
from aegis_common.background import Every
from aegis_common.errors import AegisError, ConfigurationError

INTERVAL: Final = timedelta(seconds=1)
_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """One file as it was last looked at.

    Attributes:
        stamp: Times and size, to see a change without reading.
        digest: Of the content that was last tried.
        fault: Why the content that was last tried is not served, or empty.
    """

    stamp: tuple[int, ...] = ()
    digest: str = ""
    fault: str = ""


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
        self._folder = folder
        self._host = FileHost(manager)
        self._files: dict[str, _File] = {}
        self._every = Every(interval, self.look, name="tool-folder")

    @property
    def faults(self) -> dict[str, str]:
        """Name of each file whose present content is not served, and why."""
        return {name: file.fault for name, file in self._files.items() if file.fault}

    async def __aenter__(self) -> Self:
        if not self._folder.is_dir():
            raise ConfigurationError(f"tools_dir {self._folder} is no folder", tools_dir=str(self._folder))
        await self._host.__aenter__()
        await self.look()
        await self._every.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._every.__aexit__(*exception)
        await self._host.__aexit__(*exception)

    async def look(self) -> None:
        """Take over what has changed since the last time."""
        present = await asyncio.to_thread(_stamps, self._folder)
        for name in sorted(self._files.keys() - present.keys()):
            del self._files[name]
            self._host.remove(FileId(EVERYONE, name))
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
            await self._host.commit(await self._host.prepare(FileId(EVERYONE, name), content))
            file.fault = ""
        except AegisError as error:
            self._refuse(name, file, error.message)
        except Exception as error:
            _log.exception("tool file %s: unforeseen error", name)
            self._refuse(name, file, f"unforeseen {type(error).__name__}; the log has the details")

    def _refuse(self, name: str, file: _File, why: str) -> None:
        file.fault = why
        goes_on = ", ".join(self._host.tools(FileId(EVERYONE, name))) or "none"
        _log.error("tool file is not taken over", extra={"file": name, "error": why, "tools_kept": goes_on})


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
