"""Changes to models: versions that are published, brought and deleted; all replicas follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import PRODUCTION, ModelLibrary, ModelVersion, alias_topic, version_topic
from aegis_agent.domain.model_errors import distrusted
from aegis_agent.domain.model_loading import ModelLoading
from aegis_agent.domain.model_tools import ModelTools, runner_of
from aegis_agent.domain.replicas import Changed
from aegis_agent.domain.version_errors import ModelVersionInUse

Content = Callable[[ModelVersion], Awaitable[bytes]]
"""Returns the file that a caller brings for a version."""


class ModelChanges:
    """Makes changes.

    Args:
        library: Where they are written down.
        known: Versions that this replica knows.
        tools: What runs them in this replica.
        loading: A model that was unloaded answers again when its alias moves.
    """

    def __init__(
        self,
        library: ModelLibrary,
        known: KnownVersions,
        tools: ModelTools,
        loading: ModelLoading,
    ) -> None:
        self._library = library
        self._known = known
        self._tools = tools
        self._loading = loading

    async def publish(
        self, name: str, version: str, *, sha256: str, aliases: Iterable[str], tenant: str, by: str
    ) -> Changed[ModelVersion]:
        """Verify, load and remember a version, then point *aliases* at it.

        Raises:
            ToolNameTaken: A tool that is no model has the name.
            ModelNotLoadable: The file is no model that can be served.
            AegisError: `MODEL_VERSION_NOT_IN_STORE`, `MODEL_VERSION_DELETED`, `MODEL_SIGNATURE_INVALID`,
                `MODEL_DIGEST_MISMATCH` or `ALIAS_CONFLICT`, as the library says.
        """
        self._tools.check_free(name, tenant=tenant)
        async with self._tools.lock(tenant, name):
            found = await self._library.version(tenant, name, version)
            if version not in await self._library.published(tenant, name):
                await self._library.check_signer(found)
            data = await self._library.data(found, sha256=sha256)
            return await self._take_up(found, data, set(aliases), by=by)

    async def bring(
        self,
        name: str,
        version: str,
        *,
        envelope: bytes,
        content: Content,
        aliases: Iterable[str],
        tenant: str,
        by: str,
    ) -> Changed[ModelVersion]:
        """Load, store and remember a version that its tenant has signed, then point *aliases* at it.

        Args:
            name: The model.
            version: Id of the version.
            envelope: The signed manifest.
            content: Returns the model file; not asked where the version is there already.
            aliases: What is to point at it.
            tenant: Whose.
            by: Who brings it.

        Raises:
            ToolNameTaken: A tool that is no model has the name.
            InvalidModelManifest: The manifest is broken, or for something else.
            ModelSignatureInvalid: No active publisher key of the tenant has signed it.
            ModelVersionExists: The version is there, and is another one.
            ModelVersionDeleted: It was there.
            ModelNotLoadable: The file is no model that can be served; nothing is left of it.
            AegisError: What *content* says, or `ALIAS_CONFLICT`.
        """
        self._tools.check_free(name, tenant=tenant)
        claimed = await self._library.claim(tenant, name, version, envelope)
        async with self._tools.lock(tenant, name):
            if version in await self._library.published(tenant, name):
                found = await self._library.version(tenant, name, version)
                data = await self._library.data(found, sha256=claimed.sha256)
                return await self._take_up(found, data, set(aliases), by=by)
            data = await content(claimed)
            return await self._take_up(claimed, data, set(aliases), by=by, envelope=envelope)

    async def delete(self, name: str, version: str, *, tenant: str, by: str) -> Changed[None]:
        """Delete a version for good, with its file if no other version has the same.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
            ModelVersionInUse: An alias points at it.
        """
        async with self._tools.lock(tenant, name):
            found = self._known.get(name, version, tenant=tenant)
            await self._check_unused(found)
            await self._library.bury(found, by=by)
            try:
                await self._check_unused(found)  # whoever moves an alias looks at deletions after the move
            except ModelVersionInUse:
                await self._library.unbury(found)
                raise
            self._known.remove(found)
            self._tools.drop(found)
            change = await self._library.announce(tenant, name, [version_topic(version)])
            await self._library.clear(found)
        return Changed(None, change)

    async def _check_unused(self, version: ModelVersion) -> None:
        aliases = await self._library.aliases(version.tenant, version.model)
        pointing = [alias for alias, target in aliases.items() if target == version.version]
        if pointing:
            raise ModelVersionInUse.by(pointing, version.model, version.version)

    async def _take_up(
        self,
        version: ModelVersion,
        data: bytes,
        aliases: set[str],
        *,
        by: str,
        envelope: bytes | None = None,
    ) -> Changed[ModelVersion]:
        """Load, remember and alias a version, stored first where it has an *envelope*.

        If it cannot be loaded, nothing is left.
        """
        tenant, name = version.tenant, version.model
        if version.distrusted:
            raise distrusted(name, version.version, version.signer_key_id)
        new = not self._tools.has(version)
        tool = await self._tools.make(version, data)
        topics = list[str]()
        try:
            if PRODUCTION in aliases and self._tools.served(tenant, name) != version.version:
                await runner_of(tool).load(data)
            if envelope is not None:
                version = await self._library.adopt(tenant, envelope, data)
            await self._library.remember(version, by=by)
            topics.append(version_topic(version.version))
            self._known.put(version)
            new = False
            for alias in sorted(aliases):
                await self._library.set_alias(tenant, name, alias, version.version, by=by)
                topics.append(alias_topic(alias))
                if alias == PRODUCTION and self._tools.served(tenant, name) != version.version:
                    topics += await self._loading.reopen(name, tenant=tenant, by=by)
                    self._tools.check(version)
                    self._tools.serve(tool, tenant)
        finally:
            change = await self._library.announce(tenant, name, topics)
            if new:
                self._tools.drop(version)
        return Changed(version, change)
