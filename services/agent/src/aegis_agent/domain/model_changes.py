"""Changes to models: versions that are published, and aliases that move."""

from __future__ import annotations

from collections.abc import Iterable

from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import (
    PRODUCTION,
    Model,
    ModelLibrary,
    ModelVersion,
    alias_topic,
    version_topic,
)
from aegis_agent.domain.model_errors import distrusted
from aegis_agent.domain.model_loading import ModelLoading
from aegis_agent.domain.model_tools import ModelTools, runner_of
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.replicas import Changed


class ModelChanges:
    """Makes changes, which all replicas follow.

    Args:
        library: Where they are written down.
        registry: Tells which names are taken.
        known: Versions that this replica knows.
        tools: What runs them in this replica.
        loading: A model that was unloaded answers again when its alias moves.
    """

    def __init__(
        self,
        library: ModelLibrary,
        registry: Registry,
        known: KnownVersions,
        tools: ModelTools,
        loading: ModelLoading,
    ) -> None:
        self._library = library
        self._registry = registry
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
            AegisError: `MODEL_VERSION_NOT_IN_STORE`, `MODEL_SIGNATURE_INVALID`, `MODEL_DIGEST_MISMATCH` or
                `ALIAS_CONFLICT`, as the library says.
        """
        self._registry.check_free(name)
        async with self._tools.lock(tenant, name):
            found = await self._library.version(tenant, name, version)
            if version not in await self._library.published(tenant, name):
                await self._library.check_signer(found)
            data = await self._library.data(found, sha256=sha256)
            return await self._take_up(found, data, set(aliases), by=by)

    async def set_alias(self, name: str, alias: str, version: str, *, tenant: str, by: str) -> Changed[Model]:
        """Point an alias at a version that has been published.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
            ModelSignatureInvalid: A compromised key signed it.
            AegisError: `ALIAS_CONFLICT`, or why the version can no longer be loaded.
        """
        self._known.get(name, version, tenant=tenant)
        async with self._tools.lock(tenant, name):
            found = self._known.get(name, version, tenant=tenant)
            self.check_known(found)
            moves = alias == PRODUCTION and self._tools.served(tenant, name) != version
            tool = await self._tools.ready(found) if moves else None
            self.check_known(found)
            await self._library.set_alias(tenant, name, alias, version, by=by)
            topics = [version_topic(version), alias_topic(alias)]
            topics += await self._loading.reopen(name, tenant=tenant, by=by) if moves else []
            change = await self._library.announce(tenant, name, topics)
            if tool is not None:
                self.check_known(found)
                self._tools.serve(tool, tenant)
        return Changed(await self.model(name, tenant=tenant), change)

    def check_known(self, version: ModelVersion) -> None:
        """Check that a version may be served, right before it is; else free what was made for it.

        Raises:
            UnknownModel, UnknownModelVersion: It has been deleted meanwhile.
            ModelSignatureInvalid: The key that signed it is compromised.
        """
        found = self._known.find(version.tenant, version.model, version.version)
        if found is None or found.distrusted:
            self._tools.drop(version)
        now = self._known.get(version.model, version.version, tenant=version.tenant)
        if now.distrusted:
            raise distrusted(now.model, now.version, now.signer_key_id)

    async def model(self, name: str, *, tenant: str) -> Model:
        """Return one model.

        Raises:
            UnknownModel: The tenant has none of that name.
        """
        newest = self._known.of(name, tenant=tenant)[0]
        return Model(
            name=name,
            aliases=await self._library.aliases(tenant, name),
            served=self._tools.served(tenant, name),
            update_time=newest.create_time,
        )

    async def _take_up(
        self, version: ModelVersion, data: bytes, aliases: set[str], *, by: str
    ) -> Changed[ModelVersion]:
        """Load, remember and alias a version; if it cannot be loaded, nothing is left."""
        tenant, name = version.tenant, version.model
        if version.distrusted:
            raise distrusted(name, version.version, version.signer_key_id)
        new = not self._tools.has(version)
        tool = await self._tools.make(version, data)
        topics = list[str]()
        try:
            if PRODUCTION in aliases and self._tools.served(tenant, name) != version.version:
                await runner_of(tool).load(data)
            await self._library.remember(version, by=by)
            topics.append(version_topic(version.version))
            self._known.put(version)
            new = False
            for alias in sorted(aliases):
                await self._library.set_alias(tenant, name, alias, version.version, by=by)
                topics.append(alias_topic(alias))
                if alias == PRODUCTION and self._tools.served(tenant, name) != version.version:
                    topics += await self._loading.reopen(name, tenant=tenant, by=by)
                    self.check_known(version)
                    self._tools.serve(tool, tenant)
        finally:
            change = await self._library.announce(tenant, name, topics)
            if new:
                self._tools.drop(version)
        return Changed(version, change)
