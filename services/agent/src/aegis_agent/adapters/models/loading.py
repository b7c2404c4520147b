"""Whether a model is to answer at all: numbered records, each written once; the highest number wins."""

from __future__ import annotations

import re
from typing import Final

from aegis_agent.domain.model import Loading
from aegis_common.canonical import canonical_json
from aegis_common.clock import Clock
from aegis_common.store.errors import RecordUnreadable
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 1
_FOLDER: Final = "agent-loading"
_FIELDS: Final = frozenset({"schema_version", "tenant", "model", "number", "loaded", "by", "set_at"})
_NUMBER: Final = re.compile(r"([0-9]{10})\.json")
_KEPT: Final = 8


class LoadRecords:
    """Reads and writes what was last asked for: to load a model, or to unload it."""

    def __init__(self, objects: ObjectStore, *, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def get(self, tenant: str, model: str) -> Loading:
        """Return what was last asked for; number 0 and loaded if nothing ever was.

        Raises:
            RecordUnreadable: The newest record is broken, or of an unknown schema version.
            StoreUnavailable: The object store does not answer.
        """
        number = max(await self._numbers(tenant, model), default=0)
        if not number:
            return Loading(0, loaded=True)
        key = _key(tenant, model, number)
        record = read_record(await self._objects.get(key), key=key, known={SCHEMA_VERSION}, fields=_FIELDS)
        if (record["tenant"], record["model"], record["number"]) != (tenant, model, number):
            raise RecordUnreadable(f"record {key} was written for another place", key=key)
        return Loading(number, loaded=record["loaded"] is True)

    async def set(self, tenant: str, model: str, *, loaded: bool, by: str) -> Loading:
        """Record what is asked for; of two who ask at once, one is the later.

        Raises:
            StoreUnavailable: The object store does not answer.
        """
        numbers = await self._numbers(tenant, model)
        record = {
            "schema_version": SCHEMA_VERSION,
            "tenant": tenant,
            "model": model,
            "loaded": loaded,
            "by": by,
            "set_at": self._clock().isoformat(),
        }
        number = max(numbers, default=0)
        written = False
        while not written:
            number += 1
            data = canonical_json(record | {"number": number})
            written = await self._objects.put_if_absent(_key(tenant, model, number), data)
        for old in numbers:
            if old <= number - _KEPT:
                await self._objects.delete(_key(tenant, model, old))
        return Loading(number, loaded=loaded)

    async def _numbers(self, tenant: str, model: str) -> list[int]:
        keys = await self._objects.list(object_key(tenant, _FOLDER, model))
        found = (_NUMBER.fullmatch(key.rpartition("/")[2]) for key in keys)
        return [int(match[1]) for match in found if match]


def _key(tenant: str, model: str, number: int) -> str:
    return object_key(tenant, _FOLDER, model, f"{number:010d}.json")
