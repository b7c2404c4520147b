"""Models in the object store: content-addressed bytes, and one signed, immutable manifest per version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Final

from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.errors import (
    InvalidObjectKey,
    ModelDigestMismatch,
    ModelSignatureInvalid,
    ModelVersionExists,
    ModelVersionNotInStore,
    ObjectNotFound,
    ObjectTooLarge,
)
from aegis_common.store.manifest import Manifest, seal, unseal
from aegis_common.store.objects import ObjectStore, object_key

MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MODEL_BYTES: Final = 512 << 20
_MODEL: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VERSION: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def model_key(tenant: str, model: str, *rest: str) -> str:
    """Return the key `<tenant>/models/<model>/<rest>`.

    Raises:
        InvalidObjectKey: A part is no valid name.
    """
    if not _MODEL.fullmatch(model):
        raise InvalidObjectKey(
            f"model {model!r} is not 1 to 63 of a-z, 0-9, _ and -, beginning with a letter", model=model
        )
    return object_key(tenant, "models", model, *rest)


class ModelStore:
    """Publishes and fetches model versions.

    Args:
        objects: Where they lie.
        signer: Signs manifests; None for a reader, which cannot publish.
        trusted: Keys whose manifests are believed; the signer's own always is.
        clock: Present time, for manifests.
        max_model_bytes: Largest model file that is published or fetched.
    """

    def __init__(
        self,
        objects: ObjectStore,
        signer: Signer | None,
        trusted: TrustedKeys,
        *,
        clock: Clock = utc_now,
        max_model_bytes: int = MAX_MODEL_BYTES,
    ) -> None:
        self._objects = objects
        self._signer = signer
        self._trusted = trusted.including(signer.public_key) if signer else trusted
        self._clock = clock
        self._max_model_bytes = max_model_bytes

    async def publish(
        self,
        tenant: str,
        model: str,
        version: str,
        data: bytes,
        *,
        format: str,  # noqa: A002  # the field's name in the API
        provenance: Mapping[str, Any],
        inputs: Any = None,
        outputs: Any = None,
    ) -> Manifest:
        """Store *data* as a version and return its manifest; the same bytes again change nothing.

        Raises:
            ModelVersionExists: The version exists with other bytes or another format.
            ObjectTooLarge: *data* is larger than the store takes.
            InvalidObjectKey: A name is not valid.
            InvalidProvenance: *provenance*, *inputs* or *outputs* cannot be written as JSON.
            ConfigurationError: This store has no signing key.
            StoreUnavailable: The object store does not answer.
        """
        if self._signer is None:
            raise ConfigurationError("this model store has no signing key, so it cannot publish")
        key = manifest_key(tenant, model, version)
        self._check_size(key, len(data))
        manifest = Manifest(
            tenant=tenant,
            model=model,
            version=version,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            format=format,
            created_at=self._clock(),
            provenance=dict(provenance),
            inputs=inputs,
            outputs=outputs,
            signer_key_id=self._signer.key_id,
        )
        envelope = seal(manifest, self._signer)
        self._check_manifest_size(key, len(envelope))
        # The bytes first: whoever sees the manifest can fetch them.
        await self._put_blob(manifest, data)
        if not await self._objects.put_if_absent(key, envelope):
            return await self._existing(manifest)
        return unseal(envelope, key=key, trusted=self._trusted)

    async def manifest(self, tenant: str, model: str, version: str) -> Manifest:
        """Return the manifest of a version, once its signature and its names are verified.

        Raises:
            ModelVersionNotInStore: There is no such version.
            ModelSignatureInvalid: The signature is wrong, by an untrusted key, or made for another version.
            RecordUnreadable: The manifest is broken, or of an unknown schema version.
            InvalidObjectKey: A name is not valid.
            StoreUnavailable: The object store does not answer.
        """
        key = manifest_key(tenant, model, version)
        envelope = await self.envelope(tenant, model, version)
        manifest = unseal(envelope, key=key, trusted=self._trusted)
        if (manifest.tenant, manifest.model, manifest.version) != (tenant, model, version):
            raise ModelSignatureInvalid(
                f"manifest {key} was signed for model {manifest.model!r} version {manifest.version!r} "
                f"of tenant {manifest.tenant!r}; somebody moved it",
                key=key,
                model=model,
                version=version,
            )
        return manifest

    async def envelope(self, tenant: str, model: str, version: str) -> bytes:
        """Return the stored form of a version's manifest, text and signature; nothing of it is verified.

        Raises:
            ModelVersionNotInStore: There is no such version.
            InvalidObjectKey: A name is not valid.
            StoreUnavailable: The object store does not answer.
        """
        key = manifest_key(tenant, model, version)
        try:
            return await self._objects.get(key, max_bytes=MAX_MANIFEST_BYTES)
        except ObjectNotFound as error:
            raise ModelVersionNotInStore(
                f"model {model!r} has no version {version!r} in the model store", model=model, version=version
            ) from error

    async def adopt(self, envelope: bytes, data: bytes) -> Manifest:
        """Store *data* as the version that somebody else has signed; the same again changes nothing.

        Args:
            envelope: The stored form of its manifest.
            data: The model file.

        Returns:
            The manifest in the store: where the version was there before, the one that was first.

        Raises:
            ModelSignatureInvalid: No trusted key made the signature.
            ModelDigestMismatch: *data* is not what was signed.
            ModelVersionExists: The version exists with another manifest.
            ObjectTooLarge: *data* or *envelope* is larger than the store takes.
            RecordUnreadable: The envelope is broken, or of an unknown schema version.
            StoreUnavailable: The object store does not answer.
        """
        manifest = unseal(envelope, key="of the new version", trusted=self._trusted)
        key = manifest_key(manifest.tenant, manifest.model, manifest.version)
        self._check_size(key, len(data))
        self._check_manifest_size(key, len(envelope))
        if len(data) != manifest.size_bytes or hashlib.sha256(data).hexdigest() != manifest.sha256:
            raise _mismatch(manifest)
        await self._put_blob(manifest, data)
        if not await self._objects.put_if_absent(key, envelope):
            manifest = await self.check_same(manifest)
        await self._put_blob(manifest, data)  # the last version that had it may have gone just then
        return manifest

    async def check_same(self, wanted: Manifest) -> Manifest:
        """Return the manifest of the version in the store, which says what *wanted* does but for the signer.

        Raises:
            ModelVersionNotInStore: There is no such version.
            ModelVersionExists: It says something else.
            AegisError: As `manifest` says.
        """
        found = await self.manifest(wanted.tenant, wanted.model, wanted.version)
        if replace(wanted, created_at=found.created_at, signer_key_id=found.signer_key_id) != found:
            raise _exists(found)
        return found

    async def fetch(self, manifest: Manifest) -> bytes:
        """Return the bytes of a version, once their size and digest are verified.

        Raises:
            ModelVersionNotInStore: The bytes are gone.
            ModelDigestMismatch: They are not the bytes that the manifest describes.
            ObjectTooLarge: The manifest describes more bytes than this store takes.
            StoreUnavailable: The object store does not answer.
        """
        key = _blob_key(manifest)
        self._check_size(key, manifest.size_bytes)
        try:
            data = await self._objects.get(key, max_bytes=manifest.size_bytes)
        except ObjectNotFound as error:
            raise ModelVersionNotInStore(
                f"the bytes of model {manifest.model!r} version {manifest.version!r} are gone from the store",
                model=manifest.model,
                version=manifest.version,
            ) from error
        except ObjectTooLarge as error:
            raise _mismatch(manifest) from error
        if len(data) != manifest.size_bytes or hashlib.sha256(data).hexdigest() != manifest.sha256:
            raise _mismatch(manifest)
        return data

    def stream(self, manifest: Manifest, *, offset: int, limit: int) -> AsyncIterator[bytes]:
        """Return a range of a version's bytes piece by piece; whoever reads all of it checks the digest.

        Args:
            manifest: Of the version.
            offset: 0 up to less than its size.
            limit: 1 and up.
        """
        return self._objects.stream(_blob_key(manifest), offset=offset, limit=limit)

    async def versions(self, tenant: str, model: str) -> list[str]:
        """Return the version ids of a model in ascending order; their manifests are not verified."""
        keys = await self._objects.list(model_key(tenant, model, "versions"))
        return sorted(key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys)

    async def models(self, tenant: str) -> list[str]:
        """Return the names of a tenant's models, in ascending order."""
        return await self._objects.folders(object_key(tenant, "models"))

    async def _put_blob(self, manifest: Manifest, data: bytes) -> None:
        key = _blob_key(manifest)
        if await self._objects.put_if_absent(key, data):
            return
        try:
            await self.fetch(manifest)
        except ModelDigestMismatch:
            # The key names the content: whatever else lies there is damage, and may be mended.
            await self._objects.put(key, data)

    async def _existing(self, wanted: Manifest) -> Manifest:
        found = await self.manifest(wanted.tenant, wanted.model, wanted.version)
        if (found.sha256, found.format) != (wanted.sha256, wanted.format):
            raise _exists(found)
        return found

    def _check_size(self, key: str, size: int) -> None:
        _check_limit(key, size, self._max_model_bytes)

    def _check_manifest_size(self, key: str, size: int) -> None:
        _check_limit(key, size, MAX_MANIFEST_BYTES)


def _check_limit(key: str, size: int, limit: int) -> None:
    if size > limit:
        raise ObjectTooLarge(
            f"object {key} has {size} bytes; at most {limit} are allowed",
            key=key,
            size_bytes=str(size),
            max_bytes=str(limit),
        )


def manifest_key(tenant: str, model: str, version: str) -> str:
    """Return the key of a version's manifest.

    Raises:
        InvalidObjectKey: A part is no valid name.
    """
    if not _VERSION.fullmatch(version):
        raise InvalidObjectKey(
            f"version {version!r} is not 1 to 63 of a-z, 0-9, '.', _ and -, beginning with a letter or digit",
            version=version,
        )
    return model_key(tenant, model, "versions", f"{version}.json")


def blob_key(tenant: str, *sha256: str) -> str:
    """Return the key of the bytes of that digest, which a tenant's versions share; without one, of all."""
    return object_key(tenant, "blobs", "sha256", *sha256)


def _blob_key(manifest: Manifest) -> str:
    if not _DIGEST.fullmatch(manifest.sha256):
        raise _mismatch(manifest)
    return blob_key(manifest.tenant, manifest.sha256)


def _exists(found: Manifest) -> ModelVersionExists:
    return ModelVersionExists(
        f"model {found.model!r} version {found.version!r} exists with other bytes or another description "
        f"(sha256 {found.sha256}); publish under a new version",
        model=found.model,
        version=found.version,
        sha256=found.sha256,
    )


def _mismatch(manifest: Manifest) -> ModelDigestMismatch:
    return ModelDigestMismatch(
        f"the bytes of model {manifest.model!r} version {manifest.version!r} are not those that its manifest "
        "describes; publish the version again from its source",
        model=manifest.model,
        version=manifest.version,
        sha256=manifest.sha256,
    )
