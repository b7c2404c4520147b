"""Tool files in the object store: numbered changes that agents sign, each written once, and their sources.

aegis-system/agent-tool-files/<tenant>/<file>/<number>.json
aegis-system/agent-tool-sources/<sha256>
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from aegis_agent.domain.tool_files import FileId, ToolFile
from aegis_common.clock import Clock, utc_now
from aegis_common.store.errors import RecordUnreadable
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.store.sealed import MAX_SEALED_BYTES, RecordKind, RecordSeal

MAX_SOURCE_BYTES: Final = 1 << 20
_CHANGE: Final = RecordKind(
    "tool-file", fields={"tenant", "file", "number", "sha256", "size_bytes", "tools", "by", "created_at"}
)
# One look at this folder finds the files of all tenants.
_FILES: Final = ("aegis-system", "agent-tool-files")
_SOURCES: Final = ("aegis-system", "agent-tool-sources")
_KEY: Final = re.compile(r"(?P<tenant>[^/]+)/(?P<file>[^/]+)/(?P<number>[0-9]{10})\.json")
_KEPT: Final = 8


class StoredToolFiles:
    """The `ToolFileRecords` of the domain.

    Args:
        objects: Where they lie.
        seal: Signs and verifies them.
        clock: Present time, for records.
    """

    def __init__(self, objects: ObjectStore, seal: RecordSeal, *, clock: Clock = utc_now) -> None:
        self._objects = objects
        self._seal = seal
        self._clock = clock

    async def newest(self) -> Mapping[FileId, int]:
        found: dict[FileId, int] = {}
        for key in await self._objects.list(object_key(*_FILES)):
            match = _KEY.fullmatch("/".join(key.split("/")[-3:]))
            if match:
                file = FileId(match["tenant"], f"{match['file']}.py")
                found[file] = max(found.get(file, 0), int(match["number"]))
        return found

    def change(self, file: FileId, number: int) -> str:
        return object_key(*_FILES, file.owner, file.name.removesuffix(".py"), f"{number:010d}.json")

    async def read(self, file: FileId, number: int) -> ToolFile:
        key = self.change(file, number)
        data = await self._objects.get(key, max_bytes=MAX_SEALED_BYTES)
        record = self._seal.open(_CHANGE, data, key=key)
        return ToolFile(
            file=file,
            number=number,
            sha256=str(record["sha256"]),
            size_bytes=int(record["size_bytes"]),
            tools=tuple(map(str, record["tools"])),
            by=str(record["by"]),
            created_at=datetime.fromisoformat(record["created_at"]),
            change=key,
        )

    async def source(self, found: ToolFile) -> bytes:
        key = object_key(*_SOURCES, found.sha256)
        data = await self._objects.get(key, max_bytes=MAX_SOURCE_BYTES)
        if hashlib.sha256(data).hexdigest() != found.sha256:
            raise RecordUnreadable(f"the source {key} was changed: its digest is another one", key=key)
        return data

    async def write(self, file: FileId, source: bytes, *, tools: Sequence[str], by: str) -> ToolFile:
        made = ToolFile(
            file=file,
            number=(await self.newest()).get(file, 0),
            sha256=hashlib.sha256(source).hexdigest() if source else "",
            size_bytes=len(source),
            tools=tuple(tools),
            by=by,
            created_at=self._clock().astimezone(UTC),
            change="",
        )
        if source:
            await self._objects.put_if_absent(object_key(*_SOURCES, made.sha256), source)
            await self.source(made)  # somebody else may have put something else there
        number = made.number
        while True:  # of two who write at once, one is the later
            number += 1
            key = self.change(file, number)
            if await self._objects.put_if_absent(key, self._sealed(made, number, key)):
                break
        await self._forget(file, number - _KEPT)
        return replace(made, number=number, change=key)

    def _sealed(self, made: ToolFile, number: int, key: str) -> bytes:
        record = {
            "tenant": made.file.owner,
            "file": made.file.name,
            "number": number,
            "sha256": made.sha256,
            "size_bytes": made.size_bytes,
            "tools": list(made.tools),
            "by": made.by,
            "created_at": made.created_at.isoformat(),
        }
        return self._seal.close(_CHANGE, record, key=key)

    async def _forget(self, file: FileId, number: int) -> None:
        """Remove the change that is the last one too many; those before it went before."""
        if number > 0:
            await self._objects.delete(self.change(file, number))
