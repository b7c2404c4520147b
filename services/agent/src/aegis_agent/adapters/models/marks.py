"""Marks in the model store: which models were changed through some agent in the last minutes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
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
EVERY_MODEL: Final = ""
"""Stands for all models of a tenant."""
KEYS_TOPIC: Final = "keys"
"""What marks are about when a tenant's keys are worth something else."""
_FOLDER: Final = ("aegis-system", "agent-model-changes")
_KEPT: Final = timedelta(minutes=10)
_FIELDS: Final = frozenset({"schema_version", "tenant", "model", "topics"})
_log: Final = logging.getLogger(__name__)


class ModelMarks:
    """Writes and reads marks, and removes old ones.

    Args:
        objects: Where they lie.
        models: Returns the names of a tenant's models.
        clock: Present time.
    """

    def __init__(
        self, objects: ObjectStore, models: Callable[[str], Awaitable[list[str]]], *, clock: Clock
    ) -> None:
        self._objects = objects
        self._models = models
        self._clock = clock
        self._read: dict[str, list[ModelChange]] = {}

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
        read = [await self._changes(entry.key) for entry in found if entry.modified_at >= old]
        return [change for changes in read for change in changes]

    async def announce(self, tenant: str, model: str, topics: Iterable[str]) -> str:
        """Let every replica know what of a model has been changed; without topics nothing has.

        Args:
            tenant: Whose.
            model: Its name, or `EVERY_MODEL`.
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

    async def _changes(self, key: str) -> list[ModelChange]:
        if key not in self._read:
            try:
                mark = _mark(await self._objects.get(key), key)
            except ObjectNotFound:
                return []  # another replica has just removed it
            except RecordUnreadable as error:  # a look at everything finds what it is about
                _log.error("a mark of a change cannot be read", extra={"error": error.message})
                self._read[key] = []
            else:
                every = mark.model == EVERY_MODEL
                names = await self._models(mark.tenant) if every else [mark.model]
                self._read[key] = [replace(mark, model=name) for name in names]
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
