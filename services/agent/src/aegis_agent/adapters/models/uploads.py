"""Model files that callers bring as artifacts."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.domain.model import ModelVersion
from aegis_common.store.errors import ModelDigestMismatch

AT_ONCE: Final = 2
"""Each is in memory, whole."""


class ModelUploads:
    """Reads artifacts that are model files.

    Args:
        artifacts: Where they are.
    """

    def __init__(self, artifacts: StoredArtifacts) -> None:
        self._artifacts = artifacts
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def read(self, sha256: str, version: ModelVersion) -> bytes:
        """Return the content of an artifact of the version's tenant, which is the version's file.

        Args:
            sha256: Digest of the artifact.
            version: What it has to be, as its manifest says.

        Raises:
            UnknownArtifact: The tenant has none of that digest.
            ModelDigestMismatch: It is not what the manifest describes.
            StoreUnavailable: The store does not answer.
        """
        artifact = await self._artifacts.find(version.tenant, sha256)
        if (artifact.sha256, artifact.size_bytes) != (version.sha256, version.size_bytes):
            raise _mismatch(version, artifact.sha256, artifact.size_bytes)
        async with self._slots:
            data = bytearray()
            async for piece in self._artifacts.stream(version.tenant, sha256):
                data += piece
            digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if (digest, len(data)) != (version.sha256, version.size_bytes):
            raise _mismatch(version, digest, len(data))
        return bytes(data)


def _mismatch(version: ModelVersion, sha256: str, size: int) -> ModelDigestMismatch:
    return ModelDigestMismatch(
        f"the manifest of model {version.model!r} version {version.version!r} describes {version.size_bytes} "
        f"bytes of sha256 {version.sha256}; the artifact has {size} of {sha256}",
        model=version.model,
        version=version.version,
        sha256=sha256,
    )
