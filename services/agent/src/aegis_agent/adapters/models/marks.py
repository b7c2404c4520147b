"""Marks in the model store: which models were changed through some agent in the last minutes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from aegis_agent.domain.model import ModelChange
from aegis_common.canonical import canonical_json
from aegis_common.clock import Clock
from aegis_common.errors import AegisError
from aegis_common.store.errors import ObjectNotFound, RecordUnreadable
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 2
_FOLDER: Final = ("aegis-system", "agent-model-changes")
_KEPT: Final = timedelta(minutes=10)
_FIELDS: Final = frozenset({"schema_version", "tenant", "model", "topics"})
_log: Final = logging.getLogger(__name__)


class ModelMarks:
    """Writes and reads marks, and removes old ones.

    Args:
        objects: Where they lie.
        clock: Present time.
    """

    def __init__(self, objects: ObjectStore, *, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._read: dict[str, ModelChange | None] = {}

    async def changes(self) -> list[ModelChange]:
        """Return what the marks name; one that cannot be read is logged and left out.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        found = await self._objects.entries(object_key(*_FOLDER))
        old = self._clock() - _KEPT
        for entry in found:
            if entry.modified_at < old:
                self._read.pop(entry.key, None)
                await self._objects.delete(entry.key)
        read = [await self._change(entry.key) for entry in found if entry.modified_at >= old]
        return [change for change in read if change is not None]

    async def announce(self, tenant: str, model: str, topics: Iterable[str]) -> str:
        """Let every replica know what of a model has been changed; without topics nothing has.

        Args:
            tenant: Whose.
            model: Its name, or `EVERY_MODEL` for the tenant's keys.
            topics: What was changed.

        Returns:
            Id of the change, or "" if nobody could be told; replicas find out by themselves within a minute.
        """
        record = {
            "schema_version": SCHEMA_VERSION,
            "tenant": tenant,
            "model": model,
            "topics": sorted(topics),
        }
        if not record["topics"]:
            return ""
        key = object_key(*_FOLDER, f"{uuid.uuid4().hex}.json")
        try:
            await self._objects.put_if_absent(key, canonical_json(record))
        except AegisError as error:  # what was asked for is done
            _log.warning("other replicas were not told", extra={"model": model, "error": error.message})
            return ""
        return key

    async def _change(self, key: str) -> ModelChange | None:
        if key not in self._read:
            try:
                self._read[key] = _mark(await self._objects.get(key), key)
            except ObjectNotFound:
                return None  # another replica has just removed it
            except RecordUnreadable as error:  # a look at everything finds what it is about
                _log.error("a mark of a change cannot be read", extra={"error": error.message})
                self._read[key] = None
        return self._read[key]


def _mark(data: bytes, key: str) -> ModelChange:
    record = read_record(data, key=key, known={SCHEMA_VERSION}, fields=_FIELDS)
    topics = record["topics"]
    if not isinstance(topics, list):
        raise RecordUnreadable(f"record {key}: topics is no list", key=key)
    return ModelChange(
        id=key,
        tenant=str(record["tenant"]),
        model=str(record["model"]),
        topics=frozenset(map(str, topics)),
    )
