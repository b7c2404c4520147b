"""Files of tools that are put and removed while agents run, and which all replicas follow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from aegis_agent.domain.errors import ToolNameTaken
from aegis_agent.domain.replicas import Changed, Report, tell_nobody
from aegis_common.errors import RETRYABLE, AegisError, ErrorKind, Scope

MAX_FILES: Final = 100
"""Most files of one tenant."""
FOLLOW_EVERY: Final = timedelta(seconds=2)
"""Pause between two looks at what was changed elsewhere."""
_log: Final = logging.getLogger(__name__)


class ToolFilesDisabled(AegisError):
    """The operator has not allowed it."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "TOOL_FILES_DISABLED"


class UnknownToolFile(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_TOOL_FILE"


class InvalidToolFile(AegisError):
    """It cannot be served."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_TOOL_FILE"


class TooManyToolFiles(AegisError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_TOOL_FILES"
    scope = Scope.FLEET


@dataclass(frozen=True, slots=True)
class FileId:
    """Whose file, and its name with `.py`."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFile:
    """One change of a file, as it was signed.

    Attributes:
        number: 1 for the first change of that file, then one more each time.
        sha256: Of the source, 64 lower-case hex digits; empty when the file was removed.
        tools: Names of its tools.
        by: Who made the change.
        change: Id under which replicas report that they have taken it over.
    """

    file: FileId
    number: int
    sha256: str
    size_bytes: int
    tools: tuple[str, ...]
    by: str
    created_at: datetime
    change: str

    @property
    def removed(self) -> bool:
        return not self.sha256


class Prepared(Protocol):
    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tools."""
        ...

    async def discard(self) -> None:
        """End what was made ready."""
        ...


class ToolFileHost(Protocol):
    """Serves tools in this replica."""

    async def prepare(self, file: FileId, content: bytes) -> Any:
        """Make the tools of a content ready, which is a `Prepared`; raises why it cannot."""
        ...

    async def commit(self, prepared: Any) -> None:
        """Serve prepared tools in the place of those that the file brought before."""
        ...

    def remove(self, file: FileId) -> None:
        """Take out what a file brought."""
        ...


class ToolFileRecords(Protocol):
    """What all replicas share: numbered changes, each written once and signed; the highest number counts."""

    async def newest(self) -> Mapping[FileId, int]:
        """Return the number of the newest change of each file of all tenants."""
        ...

    def change(self, file: FileId, number: int) -> str:
        """Return the id of a change."""
        ...

    async def read(self, file: FileId, number: int) -> ToolFile:
        """Return a change whose signature has been verified."""
        ...

    async def source(self, found: ToolFile) -> bytes:
        """Return the source of a file, its digest checked."""
        ...

    async def write(self, file: FileId, source: bytes, *, tools: Sequence[str], by: str) -> ToolFile:
        """Record a change; an empty source removes the file."""
        ...


class ToolFiles:
    """Puts and removes files, and follows what other replicas do.

    Args:
        records: What replicas share; None where the operator has not allowed files.
        host: Serves them here.
        report: Told of the changes that have been taken over, or cannot be.
        every: Pause between two looks.
    """

    def __init__(
        self,
        records: ToolFileRecords | None,
        host: ToolFileHost,
        *,
        report: Report = tell_nobody,
        every: timedelta = FOLLOW_EVERY,
    ) -> None:
        self._records = records
        self._host = host
        self._report = report
        self._every_s = every.total_seconds()
        self._applied: dict[FileId, int] = {}
        self._digests: dict[FileId, str] = {}
        self._locks: dict[FileId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._news = asyncio.Event()
        self._away = ""

    async def put(self, file: FileId, source: bytes, *, by: str) -> Changed[ToolFile]:
        """Serve a file on all replicas, in the place of what it was before.

        Raises:
            ToolFilesDisabled: The operator has not allowed it.
            InvalidToolFile: It cannot be served; nothing is changed.
            ToolNameTaken: Something else has the name of one of its tools.
            TooManyToolFiles: The tenant has 100.
        """
        records = self._enabled()
        async with self._locks[file]:
            await self._check_room(file)
            prepared = await self._prepared(file, source)
            try:
                made = await records.write(file, source, tools=prepared.names, by=by)
            except BaseException:
                await prepared.discard()
                raise
            await self._host.commit(prepared)
            self._note(made)
        return Changed(made, made.change)

    async def remove(self, file: FileId, *, by: str) -> Changed[None]:
        """Serve a file no longer, on all replicas.

        Raises:
            ToolFilesDisabled: The operator has not allowed it.
            UnknownToolFile: The tenant has no such file.
        """
        records = self._enabled()
        async with self._locks[file]:
            await self._present(records, file)
            made = await records.write(file, b"", tools=(), by=by)
            self._host.remove(file)
            self._note(made)
        return Changed(None, made.change)

    async def files(self, *, owner: str) -> list[ToolFile]:
        """Return the owner's files, ordered by name.

        Raises:
            ToolFilesDisabled: The operator has not allowed it.
        """
        records = self._enabled()
        newest = await records.newest()
        names = sorted((file for file in newest if file.owner == owner), key=lambda file: file.name)
        found = [await self._verified(records, file, newest[file]) for file in names]
        return [item for item in found if item is not None and not item.removed]

    async def file(self, file: FileId) -> tuple[ToolFile, bytes]:
        """Return a file and its source.

        Raises:
            ToolFilesDisabled: The operator has not allowed it.
            UnknownToolFile: The tenant has no such file.
        """
        records = self._enabled()
        found = await self._present(records, file)
        return found, await records.source(found)

    def look_soon(self) -> None:
        """Look now at what was changed elsewhere, rather than after the pause."""
        self._news.set()

    async def keep_in_step(self) -> None:
        """Look for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._news.wait()
            self._news.clear()
            try:
                await self.look()
            except Exception:  # a fault of ours must not end the following for good
                _log.exception("tool files could not be brought up to date")

    async def look(self) -> None:
        """Take over what was changed elsewhere since the last look; a file that is broken harms no other."""
        if self._records is None:
            return
        try:
            newest = await self._records.newest()
        except AegisError as error:
            self._tell_away(error.message)
            return
        self._tell_away("")
        due = [file for file, number in newest.items() if number > self._applied.get(file, 0)]
        await asyncio.gather(*(self._follow(self._records, file, newest[file]) for file in due))

    async def _follow(self, records: ToolFileRecords, file: FileId, number: int) -> None:
        async with self._locks[file]:
            before = self._applied.get(file, 0)
            if number <= before:
                return
            try:
                fault = await self._fault(records, file, number)
            except AegisError as error:
                self._tell_away(error.message)
                return
            self._applied[file] = number
        # Those in between have been replaced: nothing of them is missing here.
        await self._report(
            {records.change(file, item): "" for item in range(max(before + 1, number - 8), number)}
            | {records.change(file, number): fault}
        )

    async def _fault(self, records: ToolFileRecords, file: FileId, number: int) -> str:
        """Take a change over; return why it cannot be, or nothing.

        Raises:
            AegisError: Something is away; the next look tries again.
        """
        try:
            await self._take_over(records, file, number)
        except AegisError as error:
            if error.kind is ErrorKind.UNAVAILABLE:
                raise
            fault = error.message
        except Exception as error:  # a fault of ours must not keep other files, or the start, waiting
            _log.exception("tool file %s: unforeseen error", file.name)
            fault = f"unforeseen {type(error).__name__}; the log has the details"
        else:
            return ""
        extra = {"file": file.name, "tenant": file.owner, "error": fault}
        _log.error("tool file is not taken over", extra=extra)
        return fault

    async def _take_over(self, records: ToolFileRecords, file: FileId, number: int) -> None:
        found = await records.read(file, number)
        if found.removed:
            self._host.remove(file)
        elif found.sha256 != self._digests.get(file):
            await self._host.commit(await self._host.prepare(file, await records.source(found)))
        self._digests[file] = found.sha256

    async def _prepared(self, file: FileId, source: bytes) -> Any:
        try:
            return await self._host.prepare(file, source)
        except ToolNameTaken:
            raise
        except AegisError as error:
            if error.kind in RETRYABLE:
                raise
            raise InvalidToolFile(
                f"{file.name} is refused: {error.message}", file=file.name, cause=error.reason
            ) from error

    async def _present(self, records: ToolFileRecords, file: FileId) -> ToolFile:
        number = (await records.newest()).get(file, 0)
        found = await records.read(file, number) if number else None
        if found is None or found.removed:
            raise UnknownToolFile(f"there is no tool file {file.name!r}", file=file.name)
        return found

    async def _verified(self, records: ToolFileRecords, file: FileId, number: int) -> ToolFile | None:
        """Return a change, or None for one that cannot be verified: it hides no other."""
        try:
            return await records.read(file, number)
        except AegisError as error:
            if error.kind is ErrorKind.UNAVAILABLE:
                raise
            _log.error("a tool file cannot be verified", extra={"file": file.name, "error": error.message})
            return None

    async def _check_room(self, file: FileId) -> None:
        present = await self.files(owner=file.owner)
        if len(present) >= MAX_FILES and file not in {item.file for item in present}:
            raise TooManyToolFiles(
                f"there are {len(present)} tool files; at most {MAX_FILES}: remove one", limit=str(MAX_FILES)
            )

    def _note(self, made: ToolFile) -> None:
        self._applied[made.file] = made.number
        self._digests[made.file] = made.sha256

    def _enabled(self) -> ToolFileRecords:
        if self._records is None:
            raise ToolFilesDisabled(
                "tools cannot be added through the service here; where they may, the operator sets "
                "AEGIS_AGENT_TOOL_FILES and AEGIS_AGENT_RECORDS_KEY"
            )
        return self._records

    def _tell_away(self, why: str) -> None:
        if why and why != self._away:
            _log.warning("tool files are not up to date", extra={"error": why})
        self._away = why
