"""A model's versions, and who keeps and loads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from aegis_agent.domain.tool import Tool

PRODUCTION: Final = "production"
"""The alias that the model's tool serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One immutable version, as its signed manifest describes it.

    Attributes:
        sha256: Digest of the model file, 64 lower-case hex digits.
        size_bytes: Size of the model file.
        provenance: Training run, data set, metrics, and the limits of its domain.
        create_time: When the manifest was made, UTC.
        distrusted: Whether the key that signed it is compromised: it is not loaded, aliased or served.
    """

    tenant: str
    model: str
    version: str
    sha256: str
    size_bytes: int
    format: str
    provenance: Mapping[str, Any]
    signer_key_id: str
    create_time: datetime
    distrusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A series of versions.

    Attributes:
        aliases: Alias name to version id.
        served: Id of the version that answers, or empty.
        update_time: When the newest version was made.
    """

    name: str
    aliases: Mapping[str, str]
    served: str
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """A version was published, an alias was moved, the model was loaded or unloaded, or a key was revoked.

    Attributes:
        id: Tells it from every other change.
        model: Name of the model, or `EVERY_MODEL` for a change of the tenant's keys.
        topics: What of the model was changed: `version_topic`, `alias_topic`, `LOADING_TOPIC`.
    """

    id: str
    tenant: str
    model: str
    topics: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Loading:
    """Whether a model is to be in memory and to answer, as somebody last asked for.

    Attributes:
        number: 1 for the first time that somebody asked, then one more each time; 0 if nobody has.
    """

    number: int
    loaded: bool


LOADING_TOPIC: Final = "loading"
KEYS_TOPIC: Final = "keys"
"""What changes of a tenant's keys are about."""
EVERY_MODEL: Final = ""
"""Stands for all models of a tenant in a `ModelChange`."""
"""What loads and unloads are about."""


def version_topic(version: str) -> str:
    """Return what changes of a version are about."""
    return f"version {version}"


def alias_topic(alias: str) -> str:
    """Return what moves of an alias are about."""
    return f"alias {alias}"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One move of an alias.

    Attributes:
        number: Grows with each move.
        version: Where it points since; empty where it was removed.
    """

    number: int
    version: str


class ModelLibrary(Protocol):
    """Where versions, aliases, and the record of what was published to this agent are kept."""

    async def version(self, tenant: str, model: str, version: str) -> ModelVersion:
        """Return a version whose signature has been verified; by a compromised key, it is distrusted."""
        ...

    async def check_signer(self, version: ModelVersion) -> None:
        """Check that what the version's signer signs is still taken.

        Raises:
            ModelSignatureInvalid: The key has been revoked.
        """
        ...

    async def compromised(self, tenant: str) -> frozenset[str]:
        """Return the ids of the tenant's compromised keys."""
        ...

    async def data(self, version: ModelVersion, *, sha256: str) -> bytes:
        """Return the model file, whose digest is *sha256* and what the manifest says."""
        ...

    async def aliases(self, tenant: str, model: str) -> dict[str, str]: ...

    async def set_alias(
        self, tenant: str, model: str, alias: str, version: str, *, by: str, after: int | None = None
    ) -> None:
        """Point an alias at a version, or at none to remove it.

        Raises:
            AliasConflict: Somebody else moved it at the same moment, or since its move number *after*.
        """
        ...

    async def alias_history(self, tenant: str, model: str, alias: str) -> list[AliasMove]:
        """Return the last moves of an alias, oldest first."""
        ...

    async def remember(self, version: ModelVersion, *, by: str) -> None:
        """Record that the version has been published; a second time changes nothing.

        Raises:
            ModelVersionDeleted: It has been deleted.
        """
        ...

    async def claim(self, tenant: str, model: str, version: str, envelope: bytes) -> ModelVersion:
        """Return the version that a manifest describes, once its signature is verified; nothing is stored.

        Raises:
            InvalidModelManifest: It is broken, or for something else.
            ModelTooLarge: It describes a file that is too large.
            ModelQuotaExceeded: The tenant has no room for the file.
            ModelSignatureInvalid: No active publisher key of the tenant has signed it.
            PublisherKeysDisabled: There are no publisher keys.
            ModelVersionExists: The version is there, and is another one.
            ModelVersionDeleted: It was there.
        """
        ...

    async def adopt(self, tenant: str, envelope: bytes, data: bytes) -> ModelVersion:
        """Store a version that was claimed; return the one that is there now.

        Raises:
            ModelDigestMismatch: *data* is not what was signed.
            ModelVersionExists: Somebody was faster, with another one.
        """
        ...

    async def envelope(self, version: ModelVersion) -> bytes:
        """Return the signed manifest as it is stored."""
        ...

    def stream(self, version: ModelVersion, *, offset: int, limit: int) -> AsyncIterator[bytes]:
        """Return a range of the model file piece by piece; *offset* is below its size, *limit* above 0."""
        ...

    async def bury(self, version: ModelVersion, *, by: str) -> None:
        """Record that the version has been deleted; from here on it is not published any longer."""
        ...

    async def unbury(self, version: ModelVersion) -> None:
        """Take back what `bury` recorded a moment ago."""
        ...

    async def clear(self, version: ModelVersion) -> None:
        """Remove what is left of a buried version, its file if no other version has the same."""
        ...

    async def loading(self, tenant: str, model: str) -> Loading:
        """Return whether the model is to answer."""
        ...

    async def set_loading(self, tenant: str, model: str, *, loaded: bool, by: str) -> Loading:
        """Record, for all replicas, that the model is to answer or not."""
        ...

    async def announce(self, tenant: str, model: str, topics: Iterable[str]) -> str:
        """Let every replica know what of a model has been changed; without topics nothing has.

        Returns:
            Id of the change, or "" if nobody could be told; replicas find out by themselves within a minute.
        """
        ...

    async def names(self) -> list[tuple[str, str]]:
        """Return tenant and model of everything that was ever published."""
        ...

    async def published(self, tenant: str, model: str) -> list[str]:
        """Return the ids of the model's versions that were published to an agent, and are not deleted."""
        ...

    async def changes(self) -> list[ModelChange]:
        """Return what was changed through any agent in the last minutes; one may be told twice."""
        ...


Fetch = Callable[[], Awaitable[bytes]]
"""Returns the model file out of the store, its digest checked."""


class ModelLoader(Protocol):
    async def load(self, version: ModelVersion, data: bytes, fetch: Fetch) -> Tool:
        """Return a tool that serves the version; its runner is a `ModelRunner`.

        Args:
            version: The version.
            data: The model file.
            fetch: Returns it again, when it comes back into memory later.

        Raises:
            ModelNotLoadable: The file is no model that can be served.
            ModelExampleFailed: It does not answer an example of its bundle as it should.
            AegisError: `INVALID_MODEL_BUNDLE`: it is no sound bundle, or does not fit its model.
        """
        ...

    async def verify(self, version: ModelVersion, data: bytes) -> None:
        """Load a version afresh, beside what serves it now, run its examples, and free it again.

        Raises:
            ModelNotLoadable: The file is no model that can be served.
            ModelExampleFailed: It does not answer an example of its bundle as it should.
            AegisError: `INVALID_MODEL_BUNDLE`, `MODEL_MEMORY_EXHAUSTED`.
        """
        ...

    async def close(self) -> None:
        """Free the memory of all models."""
        ...
