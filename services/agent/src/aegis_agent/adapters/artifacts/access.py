"""A tenant's artifacts, for calls."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from datetime import datetime
from typing import Final

from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.domain.artifacts import MAX_LOAD_BYTES, NAME, Artifact, ArtifactTooLarge, UnknownArtifact


class TenantArtifacts:
    """The `Artifacts` of the domain.

    Args:
        store: Where artifacts are.
        tenant: Whose.
        max_load_bytes: Most bytes that one call gets out of them at once.
    """

    def __init__(self, store: StoredArtifacts, tenant: str, *, max_load_bytes: int = MAX_LOAD_BYTES) -> None:
        self._store = store
        self._tenant = tenant
        self.max_load_bytes: Final = max_load_bytes

    async def describe(self, name: str) -> Artifact:
        return await self._store.find(self._tenant, _sha256(name))

    async def read(self, name: str) -> bytes:
        artifact = await self.describe(name)
        if artifact.size_bytes > self.max_load_bytes:
            raise ArtifactTooLarge(
                f"{name} has {artifact.size_bytes} bytes; at most {self.max_load_bytes} are loaded at once",
                artifact=name,
                size_bytes=str(artifact.size_bytes),
                max_bytes=str(self.max_load_bytes),
            )
        if not artifact.size_bytes:
            return b""
        pieces = [piece async for piece in self._store.stream(self._tenant, artifact.sha256)]
        return b"".join(pieces)

    async def save(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        with self._store.upload(media_type=media_type) as upload:
            await upload.add(data)
            await upload.finish()
            kept = await self._store.keep(self._tenant, upload, filename=filename)
        return kept.name


class KeptArtifacts:
    """Lets artifacts live as long as the jobs that name them.

    Args:
        store: Where artifacts are.
    """

    def __init__(self, store: StoredArtifacts) -> None:
        self._store = store

    async def keep(self, tenant: str, names: Collection[str], *, until: datetime) -> None:
        for name in sorted(names):
            with contextlib.suppress(UnknownArtifact):  # a text that looks like one, or it has gone
                await self._store.extend(tenant, _sha256(name), until=until)


def _sha256(name: str) -> str:
    match = NAME.fullmatch(name)
    if match is None:
        raise UnknownArtifact(
            f"{name[:100]!r} is no artifact: artifacts/ and 64 hex digits", artifact=name[:100]
        )
    return match[1]
