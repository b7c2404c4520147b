"""The domain's model library over the model store."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from aegis_agent.domain.model import ModelChange, ModelVersion
from aegis_common.canonical import canonical_json
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import AegisError
from aegis_common.signing import TrustedKeys
from aegis_common.store.aliases import Aliases
from aegis_common.store.errors import ModelDigestMismatch, ObjectNotFound, RecordUnreadable
from aegis_common.store.manifest import Manifest
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 1
CHANGE_SCHEMA_VERSION: Final = 2
_log: Final = logging.getLogger(__name__)
_FOLDER: Final = "agent-published"
# Which tenants have models cannot be listed in the store: every key begins with one tenant. This is the list.
_INDEX: Final = ("aegis-system", "agent-tenants")
_FIELDS: Final = frozenset({"schema_version", "tenant", "model", "version", "sha256", "by", "published_at"})
_CHANGES: Final = ("aegis-system", "agent-model-changes")
_CHANGES_KEPT: Final = timedelta(minutes=10)
_CHANGE_FIELDS: Final = frozenset({"schema_version", "tenant", "model", "topics"})
_INDEX_FIELDS: Final = frozenset({"schema_version", "tenant"})


class StoredModels:
    """Reads what others put into the model store, and writes what has been published to the agent.

    Args:
        objects: Where all of it lies.
        trusted: Keys whose manifests are believed.
        max_model_bytes: Largest model file that is fetched.
        clock: Present time, for records.
    """

    def __init__(
        self, objects: ObjectStore, trusted: TrustedKeys, *, max_model_bytes: int, clock: Clock = utc_now
    ) -> None:
        self._objects = objects
        self._store = ModelStore(objects, None, trusted, clock=clock, max_model_bytes=max_model_bytes)
        self._aliases = Aliases(objects, clock=clock)
        self._clock = clock
        self._read: dict[str, ModelChange | None] = {}

    async def version(self, tenant: str, model: str, version: str) -> ModelVersion:
        return _version(await self._store.manifest(tenant, model, version))

    async def data(self, version: ModelVersion, *, sha256: str) -> bytes:
        manifest = await self._store.manifest(version.tenant, version.model, version.version)
        if manifest.sha256 != sha256:
            raise ModelDigestMismatch(
                f"the manifest of model {version.model!r} version {version.version!r} says "
                f"sha256 {manifest.sha256}, not {sha256}",
                model=version.model,
                version=version.version,
                sha256=manifest.sha256,
            )
        return await self._store.fetch(manifest)

    async def aliases(self, tenant: str, model: str) -> dict[str, str]:
        found = await self._aliases.all(tenant, model)
        return {name: record.version for name, record in found.items()}

    async def set_alias(self, tenant: str, model: str, alias: str, version: str, *, by: str) -> None:
        await self._aliases.set(tenant, model, alias, version, by=by)

    async def remember(self, version: ModelVersion, *, by: str) -> None:
        record = {
            "schema_version": SCHEMA_VERSION,
            "tenant": version.tenant,
            "model": version.model,
            "version": version.version,
            "sha256": version.sha256,
            "by": by,
            "published_at": self._clock().isoformat(),
        }
        key = object_key(version.tenant, _FOLDER, version.model, f"{version.version}.json")
        await self._objects.put_if_absent(key, canonical_json(record))
        entry = {"schema_version": SCHEMA_VERSION, "tenant": version.tenant}
        await self._objects.put_if_absent(
            object_key(*_INDEX, f"{version.tenant}.json"), canonical_json(entry)
        )

    async def announce(self, tenant: str, model: str, topics: Iterable[str]) -> str:
        record = {
            "schema_version": CHANGE_SCHEMA_VERSION,
            "tenant": tenant,
            "model": model,
            "topics": sorted(topics),
        }
        if not record["topics"]:
            return ""
        key = object_key(*_CHANGES, f"{uuid.uuid4().hex}.json")
        try:
            await self._objects.put_if_absent(key, canonical_json(record))
        except AegisError as error:  # what was asked for is done
            _log.warning("other replicas were not told", extra={"model": model, "error": error.message})
            return ""
        return key

    async def names(self) -> list[tuple[str, str]]:
        return [
            (tenant, model)
            for tenant in await self._tenants()
            for model in await self._objects.folders(object_key(tenant, _FOLDER))
        ]

    async def published(self, tenant: str, model: str) -> list[str]:
        records = [
            read_record(await self._objects.get(key), key=key, known={SCHEMA_VERSION}, fields=_FIELDS)
            for key in await self._objects.list(object_key(tenant, _FOLDER, model))
        ]
        return [str(record["version"]) for record in records]

    async def changes(self) -> list[ModelChange]:
        found = await self._objects.entries(object_key(*_CHANGES))
        old = self._clock() - _CHANGES_KEPT
        for entry in found:
            if entry.modified_at < old:
                self._read.pop(entry.key, None)
                await self._objects.delete(entry.key)
        read = [await self._change(entry.key) for entry in found if entry.modified_at >= old]
        return [change for change in read if change is not None]

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

    async def _tenants(self) -> list[str]:
        records = [
            read_record(await self._objects.get(key), key=key, known={SCHEMA_VERSION}, fields=_INDEX_FIELDS)
            for key in await self._objects.list(object_key(*_INDEX))
        ]
        return [str(record["tenant"]) for record in records]


def _mark(data: bytes, key: str) -> ModelChange:
    record = read_record(data, key=key, known={CHANGE_SCHEMA_VERSION}, fields=_CHANGE_FIELDS)
    topics = record["topics"]
    if not isinstance(topics, list):
        raise RecordUnreadable(f"record {key}: topics is no list", key=key)
    return ModelChange(
        id=key,
        tenant=str(record["tenant"]),
        model=str(record["model"]),
        topics=frozenset(map(str, topics)),
    )


def _version(manifest: Manifest) -> ModelVersion:
    return ModelVersion(
        tenant=manifest.tenant,
        model=manifest.model,
        version=manifest.version,
        sha256=manifest.sha256,
        size_bytes=manifest.size_bytes,
        format=manifest.format,
        provenance=manifest.provenance,
        signer_key_id=manifest.signer_key_id,
        create_time=manifest.created_at,
    )
