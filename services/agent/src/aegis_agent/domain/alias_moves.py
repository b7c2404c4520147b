"""Moves of aliases: forward, back, and away; all replicas follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aegis_agent.domain.errors import UnknownModelVersion
from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import (
    PRODUCTION,
    AliasMove,
    Model,
    ModelLibrary,
    ModelVersion,
    alias_topic,
    version_topic,
)
from aegis_agent.domain.model_loading import ModelLoading
from aegis_agent.domain.model_tools import ModelTools
from aegis_agent.domain.replicas import Changed
from aegis_agent.domain.version_errors import NoEarlierVersion, UnknownAlias
from aegis_common.store.errors import AliasConflict, ModelSignatureInvalid


@dataclass(frozen=True, slots=True)
class RolledBack:
    """An alias that went back.

    Attributes:
        before: Id of the version that it pointed at.
        after: Id of the version that it points at now.
    """

    model: Model
    before: str
    after: str


class AliasMoves:
    """Moves aliases.

    Args:
        library: Where moves are written down.
        known: Versions that this replica knows.
        tools: What runs them in this replica.
        loading: Lets calls in again when another version answers.
    """

    def __init__(
        self, library: ModelLibrary, known: KnownVersions, tools: ModelTools, loading: ModelLoading
    ) -> None:
        self._library = library
        self._known = known
        self._tools = tools
        self._loading = loading

    async def set_alias(self, name: str, alias: str, version: str, *, tenant: str, by: str) -> Changed[Model]:
        """Point an alias at a version that has been published.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
            ModelSignatureInvalid: A compromised key signed it.
            AegisError: `ALIAS_CONFLICT`, or why the version can no longer be loaded.
        """
        async with self._tools.lock(tenant, name):
            found = self._known.get(name, version, tenant=tenant)
            change = await self._point(found, alias, by=by)
        return Changed(await self._tools.model(name, tenant=tenant), change)

    async def rollback(
        self, name: str, alias: str, *, from_version: str, tenant: str, by: str
    ) -> Changed[RolledBack]:
        """Point an alias at the version before; one that is deleted or not trusted is passed over.

        Args:
            name: The model.
            alias: The alias.
            from_version: Where it has to point now, or empty for wherever it does.
            tenant: Whose.
            by: Who wants it.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownAlias: The model has no such alias.
            NoEarlierVersion: There is nothing to go back to.
            AliasConflict: It points elsewhere, or somebody moved it at the same moment.
            AegisError: Why the version can no longer be loaded.
        """
        self._known.of(name, tenant=tenant)
        async with self._tools.lock(tenant, name):
            history = await self._history(name, alias, tenant=tenant)
            current = history[-1]
            if from_version not in ("", current.version):
                raise AliasConflict(
                    f"alias {alias!r} of model {name!r} points at {current.version!r}, not {from_version!r}",
                    model=name,
                    alias=alias,
                    version=current.version,
                )
            found = await self._earlier(name, history, tenant=tenant)
            if found is None:
                raise NoEarlierVersion.of(name, alias, current.version)
            change = await self._point(found, alias, by=by, after=current.number)
        model = await self._tools.model(name, tenant=tenant)
        return Changed(RolledBack(model, current.version, found.version), change)

    async def remove(self, name: str, alias: str, *, tenant: str, by: str) -> Changed[Model]:
        """Remove an alias; without `production` nothing answers under the model's name.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownAlias: The model has no such alias.
            AliasConflict: Somebody moved it at the same moment.
        """
        self._known.of(name, tenant=tenant)
        async with self._tools.lock(tenant, name):
            current = (await self._history(name, alias, tenant=tenant))[-1]
            await self._library.set_alias(tenant, name, alias, "", by=by, after=current.number)
            change = await self._library.announce(tenant, name, [alias_topic(alias)])
            if alias == PRODUCTION:
                self._tools.unserve(name, tenant=tenant)
        return Changed(await self._tools.model(name, tenant=tenant), change)

    async def _history(self, name: str, alias: str, *, tenant: str) -> Sequence[AliasMove]:
        history = await self._library.alias_history(tenant, name, alias)
        if not history or not history[-1].version:
            raise UnknownAlias.of(name, alias)
        return history

    async def _point(self, version: ModelVersion, alias: str, *, by: str, after: int | None = None) -> str:
        """Move an alias, the version ready; return the change. The model's lock is held."""
        tenant, name = version.tenant, version.model
        self._tools.check(version)
        moves = alias == PRODUCTION and self._tools.served(tenant, name) != version.version
        tool = await self._tools.ready(version) if moves else None
        self._tools.check(version)
        before = (await self._library.aliases(tenant, name)).get(alias, "")
        await self._library.set_alias(tenant, name, alias, version.version, by=by, after=after)
        if version.version not in await self._library.published(tenant, name):
            # Deleted at another replica just then; whoever deletes looks at aliases after the deletion.
            await self._library.set_alias(tenant, name, alias, before, by=by)
            raise UnknownModelVersion(
                f"version {version.version!r} of model {name!r} has just been deleted",
                model=name,
                version=version.version,
            )
        topics = [version_topic(version.version), alias_topic(alias)]
        topics += await self._loading.reopen(name, tenant=tenant, by=by) if moves else []
        change = await self._library.announce(tenant, name, topics)
        if tool is not None:
            self._tools.check(version)
            self._tools.serve(tool, tenant)
        return change

    async def _earlier(self, name: str, history: Sequence[AliasMove], *, tenant: str) -> ModelVersion | None:
        """Return the nearest version before the current one that can be served."""
        published = await self._library.published(tenant, name)
        compromised = await self._library.compromised(tenant)
        for version in versions_before(history):
            if version not in published:
                continue
            found = self._known.find(tenant, name, version)
            try:
                found = found or await self._library.version(tenant, name, version)
            except ModelSignatureInvalid:
                continue
            if found.signer_key_id not in compromised and not found.distrusted:
                self._known.put(found)
                return found
        return None


def versions_before(history: Sequence[AliasMove]) -> list[str]:
    """Return the versions that an alias pointed at before its current one, the last one first.

    A version that it pointed at earlier and points at again undoes what came between: after v1, v2, v3, v2
    the one before is v1. So going back again and again never leads forward.
    """
    way = list[str]()
    for move in history:
        if move.version in way:
            del way[way.index(move.version) + 1 :]
        elif move.version:
            way.append(move.version)
    return way[-2::-1]
