"""Models: which versions have been published to this agent, and which one answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import replace
from datetime import timedelta
from typing import Final

from aegis_agent.domain.alias_moves import AliasMoves
from aegis_agent.domain.inference import ModelRunner
from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import PRODUCTION, Model, ModelLibrary, ModelLoader, ModelVersion
from aegis_agent.domain.model_changes import ModelChanges
from aegis_agent.domain.model_checks import ModelChecks
from aegis_agent.domain.model_errors import ModelNotServed, ModelUnloaded, distrusted
from aegis_agent.domain.model_loading import ModelLoading
from aegis_agent.domain.model_sync import SYNC_EVERY, ModelSync
from aegis_agent.domain.model_tools import ModelTools
from aegis_agent.domain.registry import Registration, Registry
from aegis_agent.domain.replicas import Report, tell_nobody

_log: Final = logging.getLogger(__name__)


class Models:
    """The models of all tenants; a tenant sees its own only.

    Args:
        library: Where versions and aliases are kept.
        loader: Makes tools of versions.
        registry: Where the tools answer.
        sync_every: Pause between two looks at what was changed elsewhere.
        report: Told of the changes that have been taken over, or cannot be.

    Attributes:
        changes: Publishes and deletes versions.
        moves: Moves aliases.
        checks: Verifies versions.
        loading: Loads and unloads.
    """

    def __init__(
        self,
        library: ModelLibrary,
        loader: ModelLoader,
        registry: Registry,
        *,
        sync_every: timedelta = SYNC_EVERY,
        report: Report = tell_nobody,
    ) -> None:
        self._library = library
        self._known = KnownVersions()
        self._tools = ModelTools(library, loader, registry, self._known)
        self.loading: Final = ModelLoading(library, self._known, self._tools)
        self.changes: Final = ModelChanges(library, self._known, self._tools, self.loading)
        self.moves: Final = AliasMoves(library, self._known, self._tools, self.loading)
        self.checks: Final = ModelChecks(library, loader, self._known)
        self._sync_every_s = sync_every.total_seconds()
        self._sync = ModelSync(library, self, report=report)
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Serve what is published, and go on following what other replicas publish and where aliases move."""
        await self._sync.turn()
        self._tools.in_background(self._keep_in_step())

    def look_soon(self) -> None:
        """Look now at what was changed elsewhere, rather than after the pause."""
        self._news.set()

    async def close(self) -> None:
        await self._tools.close()

    async def models(self, *, tenant: str) -> list[Model]:
        """Return the tenant's models, ordered by name."""
        return [await self.model(name, tenant=tenant) for name in self._known.models(tenant)]

    async def model(self, name: str, *, tenant: str) -> Model:
        """Return one model.

        Raises:
            UnknownModel: The tenant has none of that name.
        """
        return await self._tools.model(name, tenant=tenant)

    def versions(self, name: str, *, tenant: str) -> list[ModelVersion]:
        """Return the versions of a model, newest first.

        Raises:
            UnknownModel: The tenant has none of that name.
        """
        return self._known.of(name, tenant=tenant)

    def version(self, name: str, version: str, *, tenant: str) -> ModelVersion:
        """Return one version of a model.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
        """
        return self._known.get(name, version, tenant=tenant)

    async def aliases(self, name: str, *, tenant: str) -> dict[str, str]:
        """Return alias name to version id."""
        return await self._library.aliases(tenant, name)

    async def manifest(self, version: ModelVersion) -> bytes:
        """Return the signed manifest of a version as it is stored."""
        return await self._library.envelope(version)

    def stream(self, version: ModelVersion, *, offset: int, limit: int) -> AsyncIterator[bytes]:
        """Return a range of a version's file piece by piece.

        Args:
            version: The version.
            offset: 0 up to less than its size.
            limit: 1 and up.

        Raises:
            ModelSignatureInvalid: A compromised key signed it.
        """
        if version.distrusted:
            raise distrusted(version.model, version.version, version.signer_key_id)
        return self._library.stream(version, offset=offset, limit=limit)

    async def find(self, name: str, version: str, *, tenant: str) -> Registration:
        """Return what runs a model.

        Args:
            name: The model.
            version: Id of a version, or empty for the one that the alias `production` names.
            tenant: For whom.

        Raises:
            UnknownModel: The tenant has none of that name.
            UnknownModelVersion: The model has no such version.
            ModelNotServed: No version is named, and none answers.
            ModelUnloaded: Somebody has unloaded the model.
            AegisError: Why the version cannot be loaded now.
        """
        if not self._tools.is_open(name, tenant=tenant):
            raise ModelUnloaded.named(name)
        served = self._tools.answering(name, tenant=tenant)
        if served is not None and version == served.tool.model_version:
            return served
        if not version:
            return self._production(name, tenant=tenant)
        known = self.version(name, version, tenant=tenant)
        if known.distrusted:
            raise distrusted(name, version, known.signer_key_id)
        found = await self._tools.beside(known)
        self._tools.check(known)
        return found

    def production(self, name: str, *, tenant: str) -> ModelVersion:
        """Return the version that answers under the model's name.

        Raises:
            UnknownModel: The tenant has no such model.
            ModelNotServed: None does.
        """
        served = self._production(name, tenant=tenant)
        return self.version(name, served.tool.model_version, tenant=tenant)

    def loaded(self, version: ModelVersion) -> tuple[ModelRunner | None, bool]:
        """Return what runs a version, or None before it was first needed, and whether it lets calls in."""
        is_open = self._tools.is_open(version.model, tenant=version.tenant)
        return self._tools.loaded(version), is_open and not version.distrusted

    def is_served(self, version: ModelVersion) -> bool:
        """Return whether the version answers under its model's name."""
        return self._tools.served(version.tenant, version.model) == version.version

    def names(self) -> list[tuple[str, str]]:
        """Return tenant and name of every model that is known here."""
        return self._known.names()

    def ids(self, tenant: str, model: str) -> list[str]:
        """Return the ids of the versions of a model that are known here."""
        return self._known.ids(tenant, model)

    def take_in(self, version: ModelVersion) -> None:
        """Know a version that was published, here or at another replica."""
        self._known.put(version)

    def forget(self, tenant: str, model: str, versions: Collection[str]) -> None:
        """Know and serve versions no longer: they have been deleted."""
        for version in versions:
            found = self._known.find(tenant, model, version)
            if found is not None:
                self._known.remove(found)
                self._tools.drop(found)

    def distrust(self, tenant: str, model: str, keys: Collection[str]) -> None:
        """Serve nothing any longer that one of *keys* signed."""
        for version in self._known.ids(tenant, model):
            found = self._known.find(tenant, model, version)
            if found is not None and found.signer_key_id in keys and not found.distrusted:
                self._known.put(replace(found, distrusted=True))
                self._tools.drop(found)

    async def follow_alias(self, tenant: str, model: str) -> None:
        """Serve the version that the alias `production` names, if it is known, and none without it.

        Raises:
            AegisError: Why it cannot be served.
        """
        async with self._tools.lock(tenant, model):
            version = (await self._library.aliases(tenant, model)).get(PRODUCTION, "")
            known = self._known.find(tenant, model, version)
            if not version:
                self._tools.unserve(model, tenant=tenant)
            elif known is not None and not known.distrusted and not self.is_served(known):
                tool = await self._tools.ready(known)
                self._tools.check(known)
                self._tools.serve(tool, tenant)

    async def follow_loading(self, tenant: str, model: str) -> None:
        """Load or unload the model if somebody has asked for it since the last time.

        Raises:
            AegisError: Why it cannot be loaded.
        """
        await self.loading.follow(model, tenant=tenant)

    async def _keep_in_step(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sync_every_s):
                    await self._news.wait()
            self._news.clear()
            await _unless_at_fault(self._sync.look)
            # A load that takes long holds up no look, and no other model.
            self._tools.in_background(_unless_at_fault(self._sync.serve))

    def _production(self, name: str, *, tenant: str) -> Registration:
        found = self._tools.answering(name, tenant=tenant)
        if found is not None:
            return found
        self.versions(name, tenant=tenant)
        raise ModelNotServed.named(name)


async def _unless_at_fault(turn: Callable[[], Awaitable[None]]) -> None:
    try:
        await turn()
    except Exception:  # a fault of ours must not end the following for good
        _log.exception("models could not be brought up to date")
