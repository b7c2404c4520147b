"""Aliases of model versions: numbered records, each written once; the highest number wins."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Final

from aegis_common.canonical import canonical_json
from aegis_common.clock import Clock, utc_now
from aegis_common.store.errors import AliasConflict, InvalidObjectKey, RecordUnreadable
from aegis_common.store.models import model_key
from aegis_common.store.objects import ObjectStore
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 1
REMOVAL_SCHEMA_VERSION: Final = 2
"""Of records that remove an alias: releases that only know moves refuse those by name."""
MAX_RECORD_BYTES: Final = 16 << 10
_ALIAS: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RECORD: Final = re.compile(r"(?P<alias>[a-z][a-z0-9-]{0,31})/(?P<number>[0-9]{10})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRecord:
    """One move of an alias, or its removal.

    Attributes:
        number: 1 for the first move, then one more each time.
        version: The version that the alias points at from here on; empty where it is removed.
        by: Who moved or removed it.
        set_at: When, UTC.
    """

    schema_version: int = SCHEMA_VERSION
    tenant: str
    model: str
    alias: str
    number: int
    version: str
    by: str
    set_at: datetime


class Aliases:
    """Moves and reads aliases; the same on a folder and on S3."""

    def __init__(self, objects: ObjectStore, *, clock: Clock = utc_now) -> None:
        self._objects = objects
        self._clock = clock

    async def set(
        self, tenant: str, model: str, alias: str, version: str, *, by: str, after: int | None = None
    ) -> AliasRecord:
        """Point *alias* at *version*, or remove it; does nothing when that is so already.

        Args:
            tenant: Whose.
            model: The model.
            alias: The alias.
            version: Id of a version, or empty to remove the alias.
            by: Who does it.
            after: Number of the record that this one has to follow; None for whichever is the newest.

        Raises:
            AliasConflict: Somebody else moved it at the same moment, or since *after*.
            InvalidObjectKey: A name is not valid.
            RecordUnreadable: The newest record is broken, or of an unknown schema version.
            StoreUnavailable: The object store does not answer.
        """
        number = max(await self._numbers(tenant, model, alias), default=0)
        if number:
            current = await self._read(tenant, model, alias, number)
            if current.version == version:
                return current
            if after not in (None, number):
                raise _conflict(current, version)
        record = AliasRecord(
            schema_version=SCHEMA_VERSION if version else REMOVAL_SCHEMA_VERSION,
            tenant=tenant,
            model=model,
            alias=alias,
            number=number + 1,
            version=version,
            by=by,
            set_at=self._clock(),
        )
        if await self._objects.put_if_absent(_key(tenant, model, alias, record.number), _encode(record)):
            return record
        winner = await self._read(tenant, model, alias, record.number)
        if winner.version != version:
            raise _conflict(winner, version)
        return winner

    async def get(self, tenant: str, model: str, alias: str) -> AliasRecord | None:
        """Return where *alias* points, or None while it is not set.

        Raises:
            InvalidObjectKey: A name is not valid.
            RecordUnreadable: The newest record is broken, or of an unknown schema version.
            StoreUnavailable: The object store does not answer.
        """
        newest = await self.history(tenant, model, alias, limit=1)
        return newest[0] if newest and newest[0].version else None

    async def history(self, tenant: str, model: str, alias: str, *, limit: int) -> list[AliasRecord]:
        """Return the last *limit* moves of *alias*, removals among them, oldest first.

        Raises what `get` raises.
        """
        numbers = sorted(await self._numbers(tenant, model, alias))[-limit:]
        return [await self._read(tenant, model, alias, number) for number in numbers]

    async def all(self, tenant: str, model: str) -> dict[str, AliasRecord]:
        """Return every alias of *model* with where it points, by name; raises what `get` raises."""
        newest: dict[str, int] = {}
        for alias, number in await self._listed(model_key(tenant, model, "aliases")):
            newest[alias] = max(number, newest.get(alias, 0))
        found = {alias: await self._read(tenant, model, alias, newest[alias]) for alias in sorted(newest)}
        return {alias: record for alias, record in found.items() if record.version}

    async def _numbers(self, tenant: str, model: str, alias: str) -> list[int]:
        return [number for _, number in await self._listed(_folder(tenant, model, alias))]

    async def _listed(self, prefix: str) -> list[tuple[str, int]]:
        found = (_RECORD.fullmatch("/".join(key.split("/")[-2:])) for key in await self._objects.list(prefix))
        return [(match["alias"], int(match["number"])) for match in found if match]

    async def _read(self, tenant: str, model: str, alias: str, number: int) -> AliasRecord:
        key = _key(tenant, model, alias, number)
        record = _decode(await self._objects.get(key, max_bytes=MAX_RECORD_BYTES), key=key)
        if (record.tenant, record.model, record.alias, record.number) != (tenant, model, alias, number):
            raise RecordUnreadable(f"record {key} was written for another place", key=key)
        return record


def _conflict(winner: AliasRecord, wanted: str) -> AliasConflict:
    moved = f"pointed at {winner.version!r}" if winner.version else "removed"
    again = f"still to be {wanted!r}" if wanted else "still to go"
    return AliasConflict(
        f"alias {winner.alias!r} of model {winner.model!r} was just {moved} by {winner.by}; "
        f"look at it, and do it again if it is {again}",
        model=winner.model,
        alias=winner.alias,
        version=winner.version,
        by=winner.by,
    )


def _folder(tenant: str, model: str, alias: str) -> str:
    if not _ALIAS.fullmatch(alias):
        raise InvalidObjectKey(
            f"alias {alias!r} is not 1 to 32 of a-z, 0-9 and -, beginning with a letter", alias=alias
        )
    return model_key(tenant, model, "aliases", alias)


def _key(tenant: str, model: str, alias: str, number: int) -> str:
    return f"{_folder(tenant, model, alias)}/{number:010d}.json"


def _encode(record: AliasRecord) -> bytes:
    return canonical_json(asdict(record) | {"set_at": record.set_at.astimezone(UTC).isoformat()})


def _decode(data: bytes, *, key: str) -> AliasRecord:
    names = [field.name for field in fields(AliasRecord)]
    record = read_record(data, key=key, known={SCHEMA_VERSION, REMOVAL_SCHEMA_VERSION}, fields=names)
    try:
        set_at = datetime.fromisoformat(record["set_at"])
    except (TypeError, ValueError) as error:
        raise RecordUnreadable(f"record {key}: set_at is no time", key=key) from error
    texts = ("tenant", "model", "alias", "version", "by")
    if not all(isinstance(record[name], str) for name in texts) or type(record["number"]) is not int:
        raise RecordUnreadable(f"record {key}: a field has a wrong type", key=key)
    return AliasRecord(**(record | {"set_at": set_at}))
