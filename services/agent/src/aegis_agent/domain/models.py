"""Models: which versions have been published to this agent, and which one answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from datetime import timedelta
from typing import Any, Final, cast

from aegis_agent.domain.errors import UnknownModel, UnknownModelVersion
from aegis_agent.domain.inference import ModelRunner
from aegis_agent.domain.model import (
    Model,
    ModelLibrary,
    ModelLoader,
    ModelVersion,
    alias_topic,
    version_topic,
)
from aegis_agent.domain.model_errors import ModelNotServed, ModelUnloaded
from aegis_agent.domain.model_sync import PRODUCTION, SYNC_EVERY, ModelSync, Report, tell_nobody
from aegis_agent.domain.registry import Registration, Registry
from aegis_agent.domain.replicas import Changed
from aegis_agent.domain.tool import Tool

_log: Final = logging.getLogger(__name__)


_Key = tuple[str, str, str]
"""Tenant, model, version."""


class Models:
    """The models of all tenants; a tenant sees its own only.

    Args:
        library: Where versions and aliases are kept.
        loader: Makes tools of versions.
        registry: Where the tools answer.
        sync_every: Pause between two looks at what was changed elsewhere.
        report: Told of the changes that have been taken over, or cannot be.
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
        self._loader = loader
        self._registry = registry
        self._versions: dict[str, dict[str, dict[str, ModelVersion]]] = defaultdict(lambda: defaultdict(dict))
        self._tools: dict[_Key, Tool] = {}
        self._beside: dict[_Key, Registration] = {}
        self._unloaded: set[tuple[str, str]] = set()
        self._locks: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: set[asyncio.Task[None]] = set()
        self._sync_every_s = sync_every.total_seconds()
        self._sync = ModelSync(library, self, report=report)
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Serve what is published, and go on following what other replicas publish and where aliases move."""
        await self._sync.turn()
        self._in_background(self._keep_in_step())

    def look_soon(self) -> None:
        """Look now at what was changed elsewhere, rather than after the pause."""
        self._news.set()

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._loader.close()

    async def models(self, *, tenant: str) -> list[Model]:
        """Return the tenant's models, ordered by name."""
        return [await self._model(tenant, name) for name in sorted(self._versions[tenant])]

    async def model(self, name: str, *, tenant: str) -> Model:
        """Return one model.

        Raises:
            UnknownModel: The tenant has none of that name.
        """
        self.versions(name, tenant=tenant)
        return await self._model(tenant, name)

    def versions(self, name: str, *, tenant: str) -> list[ModelVersion]:
        """Return the versions of a model, newest first.

        Raises:
            UnknownModel: The tenant has none of that name.
        """
        known = self._versions[tenant]
        if not known.get(name):
            raise UnknownModel.named(name, known)
        by_id = sorted(known[name].values(), key=lambda item: item.version)
        return sorted(by_id, key=lambda item: item.create_time, reverse=True)

    async def aliases(self, name: str, *, tenant: str) -> dict[str, str]:
        """Return alias name to version id."""
        return await self._library.aliases(tenant, name)

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
        aliases = set(aliases)
        async with self._locks[tenant, name]:
            found = await self._library.version(tenant, name, version)
            data = await self._library.data(found, sha256=sha256)
            new = (tenant, name, version) not in self._tools
            tool = await self._tool(found, data)
            topics = list[str]()
            try:
                if PRODUCTION in aliases and self._served(tenant, name) != version:
                    await runner_of(tool).load(data)
                await self._library.remember(found, by=by)
                topics.append(version_topic(version))
                self._versions[tenant][name][version] = found
                new = False
                for alias in sorted(aliases):
                    await self._library.set_alias(tenant, name, alias, version, by=by)
                    topics.append(alias_topic(alias))
                    if alias == PRODUCTION:
                        self._serve(tool, tenant)
            finally:
                change = await self._library.announce(tenant, name, topics)
                if new:
                    runner_of(self._tools.pop((tenant, name, version))).unload()
        return Changed(found, change)

    async def set_alias(self, name: str, alias: str, version: str, *, tenant: str, by: str) -> Changed[Model]:
        """Point an alias at a version that has been published.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
            AegisError: `ALIAS_CONFLICT`, or why the version can no longer be loaded.
        """
        found = self.version(name, version, tenant=tenant)
        async with self._locks[tenant, name]:
            moves = alias == PRODUCTION and self._served(tenant, name) != version
            tool = await self._ready(found) if moves else None
            await self._library.set_alias(tenant, name, alias, version, by=by)
            topics = version_topic(version), alias_topic(alias)
            change = await self._library.announce(tenant, name, topics)
            if tool is not None:
                self._serve(tool, tenant)
        return Changed(await self._model(tenant, name), change)

    async def find(self, name: str, version: str, *, tenant: str) -> Registration:
        """Return what runs a model.

        Args:
            name: The model.
            version: Id of a version, or empty for the one that the alias `production` names.
            tenant: For whom.

        Raises:
            UnknownModel: The tenant has none of that name.
            UnknownModelVersion: The model has no such version.
            ModelNotServed: No version is named, and there is no alias `production`.
            ModelUnloaded: Somebody has unloaded the model.
            AegisError: Why the version cannot be loaded now.
        """
        if (tenant, name) in self._unloaded:
            raise ModelUnloaded.named(name)
        served = self._registry.owned(name, owner=tenant)
        if served is not None and version == served.tool.model_version:
            return served
        if version:
            return await self._other(self.version(name, version, tenant=tenant))
        return self._production(name, tenant=tenant)

    def version(self, name: str, version: str, *, tenant: str) -> ModelVersion:
        """Return one version of a model.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
        """
        known = self.versions(name, tenant=tenant)
        found = self._versions[tenant][name].get(version)
        if found is None:
            raise UnknownModelVersion(
                f"version {version!r} of model {name!r} has not been published; there are "
                f"{', '.join(item.version for item in known[:10])}",
                model=name,
                version=version,
            )
        return found

    def production(self, name: str, *, tenant: str) -> ModelVersion:
        """Return the version that the alias `production` names.

        Raises:
            UnknownModel: The tenant has no such model.
            ModelNotServed: There is no such alias.
        """
        served = self._production(name, tenant=tenant)
        return self.version(name, served.tool.model_version, tenant=tenant)

    async def load(self, name: str, *, tenant: str) -> None:
        """Bring the version that answers into memory, and let calls in again after an `unload`.

        Raises:
            UnknownModel: The tenant has no such model.
            ModelNotServed: There is no alias `production`.
            AegisError: Why it cannot be loaded.
        """
        self.versions(name, tenant=tenant)
        async with self._locks[tenant, name]:
            served = self._production(name, tenant=tenant)
            await runner_of(served.tool).load()
            self._let_in(name, tenant=tenant, allowed=True)

    def unload(self, name: str, *, tenant: str) -> None:
        """Free a model's memory; calls in flight finish, later ones are refused until it is loaded again.

        Raises:
            UnknownModel: The tenant has no such model.
        """
        self.versions(name, tenant=tenant)
        self._let_in(name, tenant=tenant, allowed=False)
        for tool in self._tools_of(name, tenant=tenant):
            runner_of(tool).unload()

    def loaded(self, version: ModelVersion) -> tuple[ModelRunner | None, bool]:
        """Return what runs a version, or None before it was first needed, and whether it lets calls in."""
        tool = self._tools.get(_key(version))
        open_ = (version.tenant, version.model) not in self._unloaded
        return (None if tool is None else runner_of(tool)), open_

    def is_served(self, version: ModelVersion) -> bool:
        """Return whether the alias `production` names the version."""
        return self._served(version.tenant, version.model) == version.version

    def knows(self, tenant: str, model: str, version: str) -> bool:
        """Return whether a version is known here."""
        return version in self._versions[tenant][model]

    def take_in(self, version: ModelVersion) -> None:
        """Know a version that was published, here or at another replica."""
        self._versions[version.tenant][version.model][version.version] = version

    async def follow_alias(self, tenant: str, model: str) -> None:
        """Serve the version that the alias `production` names, if it is known.

        Raises:
            AegisError: Why it cannot be served.
        """
        async with self._locks[tenant, model]:
            version = (await self._library.aliases(tenant, model)).get(PRODUCTION, "")
            known = self._versions[tenant][model].get(version)
            if known is not None and self._served(tenant, model) != version:
                self._serve(await self._ready(known), tenant)

    async def _keep_in_step(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sync_every_s):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._sync.turn()
            except Exception:  # a fault of ours must not end the following for good
                _log.exception("models could not be brought up to date")

    def _production(self, name: str, *, tenant: str) -> Registration:
        found = self._registry.owned(name, owner=tenant)
        if found is not None and found.tool.model_version:
            return found
        self.versions(name, tenant=tenant)
        raise ModelNotServed(
            f"model {name!r} has no alias {PRODUCTION!r}: set it, or name a version", model=name
        )

    def _tools_of(self, name: str, *, tenant: str) -> list[Tool]:
        return [tool for key, tool in self._tools.items() if key[:2] == (tenant, name)]

    def _let_in(self, name: str, *, tenant: str, allowed: bool) -> None:
        if allowed:
            self._unloaded.discard((tenant, name))
        else:
            self._unloaded.add((tenant, name))
        for tool in self._tools_of(name, tenant=tenant):
            runner_of(tool).available = allowed

    async def _other(self, version: ModelVersion) -> Registration:
        """Return what runs a version that does not answer under the model's name."""
        key = _key(version)
        if key not in self._beside:
            async with self._locks[version.tenant, version.model]:
                tool = await self._tool(version)
            self._beside.setdefault(key, Registration(tool))
        return self._beside[key]

    async def _tool(self, version: ModelVersion, data: bytes | None = None) -> Tool:
        """Return the version's tool, made when it is first needed; call it with the model's lock held."""
        key = _key(version)
        if key not in self._tools:

            async def fetch() -> bytes:
                return await self._library.data(version, sha256=version.sha256)

            data = await fetch() if data is None else data
            self._tools[key] = await self._loader.load(version, data, fetch)
        return self._tools[key]

    async def _ready(self, version: ModelVersion) -> Tool:
        """Return the version's tool, in memory."""
        tool = await self._tool(version)
        await runner_of(tool).load()
        return tool

    def _serve(self, tool: Tool, tenant: str) -> None:
        """Let *tool* answer under the model's name, in one step; what did before ends when its calls have."""
        if self._served(tenant, tool.spec.name) == tool.model_version:
            return
        self._let_in(tool.spec.name, tenant=tenant, allowed=True)
        runner_of(tool).serving = True
        before = self._registry.swap(tool, tenant=tenant)
        if before is not None:
            runner_of(before.tool).serving = False
            self._in_background(before.retire())

    async def _model(self, tenant: str, name: str) -> Model:
        return Model(
            name=name,
            aliases=await self._library.aliases(tenant, name),
            served=self._served(tenant, name),
            update_time=max(item.create_time for item in self._versions[tenant][name].values()),
        )

    def _served(self, tenant: str, name: str) -> str:
        found = self._registry.owned(name, owner=tenant)
        return found.tool.model_version if found is not None else ""

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def runner_of(tool: Tool) -> ModelRunner:
    """Return the runner of a tool that is a model."""
    return cast("ModelRunner", tool.runner)


def _key(version: ModelVersion) -> _Key:
    return version.tenant, version.model, version.version
