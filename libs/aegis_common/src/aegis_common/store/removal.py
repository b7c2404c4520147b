"""Removes model versions from the store; bytes that versions share go with the last one that has them."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from aegis_common.store.errors import ObjectNotFound
from aegis_common.store.models import MAX_MANIFEST_BYTES, blob_key, manifest_key
from aegis_common.store.objects import ObjectStore, object_key

_READS_AT_ONCE: Final = 16


async def remove_version(objects: ObjectStore, tenant: str, model: str, version: str, *, sha256: str) -> None:
    """Remove a version's manifest, and its bytes unless another version of the tenant has them.

    A version that gets the same bytes at the same moment stores them again.

    Args:
        objects: Where they lie.
        tenant: Whose.
        model: The model.
        version: Id of the version; a missing one is fine.
        sha256: Digest of its bytes.

    Raises:
        InvalidObjectKey: A name is not valid.
        StoreUnavailable: The object store does not answer.
    """
    await objects.delete(manifest_key(tenant, model, version))
    if not await _is_needed(objects, tenant, sha256):
        await objects.delete(blob_key(tenant, sha256))


async def _is_needed(objects: ObjectStore, tenant: str, sha256: str) -> bool:
    keys = await objects.list(object_key(tenant, "models"))
    manifests = [key for key in keys if key.split("/")[3:4] == ["versions"]]
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def needs(key: str) -> bool:
        async with slots:
            try:
                envelope = await objects.get(key, max_bytes=MAX_MANIFEST_BYTES)
            except ObjectNotFound:
                return False
        try:
            return bool(json.loads(json.loads(envelope)["manifest"])["sha256"] == sha256)
        except (ValueError, KeyError, TypeError, RecursionError):
            return True  # whoever can read it may need them

    return any(await asyncio.gather(*(needs(key) for key in manifests)))
