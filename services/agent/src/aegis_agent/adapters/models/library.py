"""The domain's model library over the model store."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from aegis_agent.adapters.models.claims import claimed
from aegis_agent.adapters.models.loading import LoadRecords
from aegis_agent.adapters.models.marks import ModelMarks
from aegis_agent.adapters.models.publisher_keys import StoredPublisherKeys, public_keys
from aegis_agent.domain.model import (
    EVERY_MODEL,
    KEYS_TOPIC,
    AliasMove,
    Loading,
    ModelChange,
    ModelVersion,
)
from aegis_agent.domain.model_errors import distrusted
from aegis_agent.domain.publishers import KeyState, PublisherKey
from aegis_agent.domain.version_errors import ModelQuotaExceeded, ModelVersionDeleted
from aegis_common.canonical import canonical_json
from aegis_common.clock import Clock, utc_now
from aegis_common.signing import TrustedKeys
from aegis_common.store.aliases import Aliases
from aegis_common.store.errors import (
    ModelDigestMismatch,
    ModelSignatureInvalid,
    ModelVersionNotInStore,
    StoreUnavailable,
)
from aegis_common.store.manifest import Manifest
from aegis_common.store.models import ModelStore, blob_key
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.store.records import read_record
from aegis_common.store.removal import remove_version

SCHEMA_VERSION: Final = 1
_FOLDER: Final = "agent-published"
_DELETED: Final = "agent-deleted"
_HISTORY: Final = 200
"""Most moves of an alias that are looked at to go back."""
# Which tenants have models cannot be listed in the store: every key begins with one tenant. This is the list.
_INDEX: Final = ("aegis-system", "agent-tenants")
_log: Final = logging.getLogger(__name__)
_INDEX_FIELDS: Final = frozenset({"schema_version", "tenant"})


class StoredModels:
    """Reads what others put into the model store, and writes what has been published to the agent.

    Args:
        objects: Where all of it lies.
        trusted: Keys whose manifests are believed, whosesoever model it is.
        keys: Keys that tenants have enrolled for their own models.
        max_model_bytes: Largest model file that is fetched.
        quota_bytes: Most bytes of the files of one tenant that are brought; None for no bound.
        clock: Present time, for records.
    """

    def __init__(
        self,
        objects: ObjectStore,
        trusted: TrustedKeys,
        *,
        keys: StoredPublisherKeys | None = None,
        max_model_bytes: int,
        quota_bytes: int | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._objects = objects
        self._trusted = trusted
        self._keys = keys or StoredPublisherKeys(objects, None)
        self._max_model_bytes = max_model_bytes
        self._quota_bytes = quota_bytes
        self._aliases = Aliases(objects, clock=clock)
        self._loading = LoadRecords(objects, clock=clock)
        self._marks = ModelMarks(objects, clock=clock)
        self._clock = clock

    async def version(self, tenant: str, model: str, version: str) -> ModelVersion:
        keys = await self._enrolled(tenant)
        manifest = await self._store(keys).manifest(tenant, model, version)
        return _version(manifest, keys)

    async def check_signer(self, version: ModelVersion) -> None:
        key = (await self._enrolled(version.tenant)).get(version.signer_key_id)
        if key is not None and key.state is not KeyState.ACTIVE:
            raise ModelSignatureInvalid(
                f"model {version.model!r} version {version.version!r} was signed by key {key.key_id}, which "
                "has been revoked; sign it with another one",
                model=version.model,
                version=version.version,
                key_id=key.key_id,
            )

    async def compromised(self, tenant: str) -> frozenset[str]:
        return _compromised(await self._enrolled(tenant))

    async def data(self, version: ModelVersion, *, sha256: str) -> bytes:
        keys = await self._enrolled(version.tenant)
        if version.signer_key_id in _compromised(keys):
            raise distrusted(version.model, version.version, version.signer_key_id)
        store = self._store(keys)
        manifest = await store.manifest(version.tenant, version.model, version.version)
        if manifest.sha256 != sha256:
            raise ModelDigestMismatch(
                f"the manifest of model {version.model!r} version {version.version!r} says "
                f"sha256 {manifest.sha256}, not {sha256}",
                model=version.model,
                version=version.version,
                sha256=manifest.sha256,
            )
        return await store.fetch(manifest)

    async def aliases(self, tenant: str, model: str) -> dict[str, str]:
        found = await self._aliases.all(tenant, model)
        return {name: record.version for name, record in found.items()}

    async def set_alias(
        self, tenant: str, model: str, alias: str, version: str, *, by: str, after: int | None = None
    ) -> None:
        await self._aliases.set(tenant, model, alias, version, by=by, after=after)

    async def alias_history(self, tenant: str, model: str, alias: str) -> list[AliasMove]:
        moves = await self._aliases.history(tenant, model, alias, limit=_HISTORY)
        return [AliasMove(move.number, move.version) for move in moves]

    async def announce(self, tenant: str, model: str, topics: Iterable[str]) -> str:
        return await self._marks.announce(tenant, model, topics)

    async def claim(self, tenant: str, model: str, version: str, envelope: bytes) -> ModelVersion:
        keys = await self._keys.keys(tenant)
        manifest = claimed(
            envelope,
            keys,
            names=(tenant, model, version),
            now=self._clock(),
            max_model_bytes=self._max_model_bytes,
        )
        if version in await self._ids(tenant, _DELETED, model):
            raise ModelVersionDeleted.of(model, version)
        await self._check_room(manifest)
        with contextlib.suppress(ModelVersionNotInStore):
            manifest = await self._store(keys).check_same(manifest)
        return _version(manifest, keys)

    async def adopt(self, tenant: str, envelope: bytes, data: bytes) -> ModelVersion:
        keys = await self._keys.keys(tenant)
        return _version(await self._store(keys).adopt(envelope, data), keys)

    async def envelope(self, version: ModelVersion) -> bytes:
        return await self._store({}).envelope(version.tenant, version.model, version.version)

    async def stream(self, version: ModelVersion, *, offset: int, limit: int) -> AsyncIterator[bytes]:
        store = self._store(await self._enrolled(version.tenant))
        manifest = await store.manifest(version.tenant, version.model, version.version)
        async for piece in store.stream(manifest, offset=offset, limit=limit):
            yield piece

    async def remember(self, version: ModelVersion, *, by: str) -> None:
        await self._record(_FOLDER, version, {"by": by, "published_at": self._clock().isoformat()})
        # Whoever deletes writes that down before it removes what this has just written.
        if version.version in await self._ids(version.tenant, _DELETED, version.model):
            raise ModelVersionDeleted.of(version.model, version.version)
        entry = {"schema_version": SCHEMA_VERSION, "tenant": version.tenant}
        await self._objects.put_if_absent(
            object_key(*_INDEX, f"{version.tenant}.json"), canonical_json(entry)
        )

    async def loading(self, tenant: str, model: str) -> Loading:
        return await self._loading.get(tenant, model)

    async def set_loading(self, tenant: str, model: str, *, loaded: bool, by: str) -> Loading:
        return await self._loading.set(tenant, model, loaded=loaded, by=by)

    async def names(self) -> list[tuple[str, str]]:
        return [(tenant, model) for tenant in await self._tenants() for model in await self._models(tenant)]

    async def published(self, tenant: str, model: str) -> list[str]:
        published = await self._ids(tenant, _FOLDER, model)
        deleted = await self._ids(tenant, _DELETED, model)
        return [version for version in published if version not in deleted]

    async def bury(self, version: ModelVersion, *, by: str) -> None:
        await self._record(_DELETED, version, {"by": by, "deleted_at": self._clock().isoformat()})

    async def unbury(self, version: ModelVersion) -> None:
        await self._objects.delete(_key(_DELETED, version))

    async def clear(self, version: ModelVersion) -> None:
        names = version.tenant, version.model, version.version
        try:
            await self._objects.delete(_key(_FOLDER, version))
            await remove_version(self._objects, *names, sha256=version.sha256)
        except StoreUnavailable as error:  # it is deleted; what is left nobody can reach
            _log.warning(
                "something is left of a deleted version",
                extra={"model": version.model, "version": version.version, "error": error.message},
            )

    async def changes(self) -> list[ModelChange]:
        return await self._marks.changes()

    async def announce_keys(self, tenant: str) -> str:
        """Let all replicas look at a tenant's keys, which are worth something else now; return the change."""
        return await self._marks.announce(tenant, EVERY_MODEL, [KEYS_TOPIC])

    def _store(self, keys: Mapping[str, PublisherKey]) -> ModelStore:
        # Compromised ones too: what they signed is known, and named as what it is.
        trusted = self._trusted.including(*public_keys(keys.values()))
        return ModelStore(
            self._objects, None, trusted, clock=self._clock, max_model_bytes=self._max_model_bytes
        )

    async def _check_room(self, manifest: Manifest) -> None:
        if self._quota_bytes is None:
            return
        stored = await self._objects.entries(blob_key(manifest.tenant))
        used = sum(item.size_bytes for item in stored)
        new = all(item.key.rpartition("/")[2] != manifest.sha256 for item in stored)
        if new and used + manifest.size_bytes > self._quota_bytes:
            raise ModelQuotaExceeded.of(used=used, size=manifest.size_bytes, quota=self._quota_bytes)

    async def _record(self, folder: str, version: ModelVersion, fields: Mapping[str, str]) -> None:
        record = {
            "schema_version": SCHEMA_VERSION,
            "tenant": version.tenant,
            "model": version.model,
            "version": version.version,
            "sha256": version.sha256,
            **fields,
        }
        await self._objects.put_if_absent(_key(folder, version), canonical_json(record))

    async def _ids(self, tenant: str, folder: str, model: str) -> list[str]:
        keys = await self._objects.list(object_key(tenant, folder, model))
        return [key.rpartition("/")[2].removesuffix(".json") for key in keys]

    async def _enrolled(self, tenant: str) -> Mapping[str, PublisherKey]:
        return await self._keys.keys(tenant) if self._keys.enabled else {}

    async def _models(self, tenant: str) -> list[str]:
        return await self._objects.folders(object_key(tenant, _FOLDER))

    async def _tenants(self) -> list[str]:
        records = [
            read_record(await self._objects.get(key), key=key, known={SCHEMA_VERSION}, fields=_INDEX_FIELDS)
            for key in await self._objects.list(object_key(*_INDEX))
        ]
        return [str(record["tenant"]) for record in records]


def _key(folder: str, version: ModelVersion) -> str:
    return object_key(version.tenant, folder, version.model, f"{version.version}.json")


def _compromised(keys: Mapping[str, PublisherKey]) -> frozenset[str]:
    return frozenset(key_id for key_id, key in keys.items() if key.state is KeyState.COMPROMISED)


def _version(manifest: Manifest, keys: Mapping[str, PublisherKey]) -> ModelVersion:
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
        distrusted=manifest.signer_key_id in _compromised(keys),
    )
