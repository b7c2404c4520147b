"""What runs model versions: one tool each, made when it is first needed; one of them answers per model."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, cast

from aegis_agent.domain.errors import ToolNameTaken
from aegis_agent.domain.inference import ModelRunner
from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import Model, ModelLibrary, ModelLoader, ModelVersion
from aegis_agent.domain.model_errors import distrusted
from aegis_agent.domain.registry import Registration, Registry
from aegis_agent.domain.tool import Tool

_Key = tuple[str, str, str]
"""Tenant, model, version."""


class ModelTools:
    """The tools of model versions, of all tenants.

    Args:
        library: Where model files come from.
        loader: Makes tools of them.
        registry: Where the tools that answer stand.
        known: Which versions have been published.
    """

    def __init__(
        self, library: ModelLibrary, loader: ModelLoader, registry: Registry, known: KnownVersions
    ) -> None:
        self._library = library
        self._known = known
        self._loader = loader
        self._registry = registry
        self._tools: dict[_Key, Tool] = {}
        self._beside: dict[_Key, Registration] = {}
        self._unloaded: set[tuple[str, str]] = set()
        self._locks: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._loader.close()

    def lock(self, tenant: str, name: str) -> asyncio.Lock:
        """Held while a version of the model is made ready, or its aliases move through this replica."""
        return self._locks[tenant, name]

    def answering(self, name: str, *, tenant: str) -> Registration | None:
        """Return what answers under the model's name, or None."""
        found = self._registry.owned(name, owner=tenant)
        return found if found is not None and found.tool.model_version else None

    def check_free(self, name: str, *, tenant: str) -> None:
        """Check that a model may have a name.

        Raises:
            ToolNameTaken: A tool that is no model has it.
        """
        self._registry.check_free(name)
        found = self._registry.owned(name, owner=tenant)
        if found is not None and not found.tool.model_version:
            raise ToolNameTaken(
                f"{name!r} is the name of a tool that is no model; choose another one", tool=name
            )

    def served(self, tenant: str, name: str) -> str:
        """Return the id of the version that answers, or an empty text."""
        found = self.answering(name, tenant=tenant)
        return found.tool.model_version if found is not None else ""

    def has(self, version: ModelVersion) -> bool:
        """Return whether the version has a tool already."""
        return _key(version) in self._tools

    async def make(self, version: ModelVersion, data: bytes | None = None) -> Tool:
        """Return the version's tool, made when it is first needed; call it with the model's lock held.

        Args:
            version: The version.
            data: The model file, where the caller has it.

        Raises:
            AegisError: Why it cannot be loaded.
        """
        key = _key(version)
        if key not in self._tools:

            async def fetch() -> bytes:
                return await self._library.data(version, sha256=version.sha256)

            data = await fetch() if data is None else data
            self._tools[key] = await self._loader.load(version, data, fetch)
        return self._tools[key]

    async def ready(self, version: ModelVersion) -> Tool:
        """Return the version's tool, in memory; call it with the model's lock held."""
        tool = await self.make(version)
        await runner_of(tool).load()
        return tool

    async def beside(self, version: ModelVersion) -> Registration:
        """Return what runs a version that does not answer under the model's name."""
        key = _key(version)
        if key not in self._beside:
            async with self.lock(version.tenant, version.model):
                tool = await self.make(version)
            self._beside.setdefault(key, Registration(tool))
        return self._beside[key]

    def check(self, version: ModelVersion) -> None:
        """Check that a version may be served, right before it is; else free what was made for it.

        Raises:
            UnknownModel, UnknownModelVersion: It has been deleted meanwhile.
            ModelSignatureInvalid: The key that signed it is compromised.
        """
        found = self._known.find(version.tenant, version.model, version.version)
        if found is None or found.distrusted:
            self.drop(version)
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
            served=self.served(tenant, name),
            update_time=newest.create_time,
        )

    def serve(self, tool: Tool, tenant: str) -> None:
        """Let *tool* answer under the model's name, in one step; what did before ends when its calls have.

        Raises:
            ToolNameTaken: A tool that is no model has the name.
        """
        if self.served(tenant, tool.spec.name) == tool.model_version:
            return
        self.check_free(tool.spec.name, tenant=tenant)
        self.let_in(tool.spec.name, tenant=tenant, allowed=True)
        runner_of(tool).serving = True
        self._retire(self._registry.swap(tool, tenant=tenant))

    def unserve(self, name: str, *, tenant: str) -> None:
        """Let no version answer under the model's name; calls that run finish."""
        if self.served(tenant, name):
            self._retire(self._registry.remove(name, owner=tenant))

    def drop(self, version: ModelVersion) -> None:
        """Forget a version's tool, answering or not; calls that run finish, those that wait are refused."""
        tool = self._tools.pop(_key(version), None)
        if tool is None:
            return
        runner_of(tool).available = False
        if self.served(version.tenant, version.model) == version.version:
            self.unserve(version.model, tenant=version.tenant)
        self._retire(self._beside.pop(_key(version), None))
        runner_of(tool).unload()

    def of(self, name: str, *, tenant: str) -> list[Tool]:
        """Return the tools of all versions of a model."""
        return [tool for key, tool in self._tools.items() if key[:2] == (tenant, name)]

    def is_open(self, name: str, *, tenant: str) -> bool:
        """Return whether a model lets calls in."""
        return (tenant, name) not in self._unloaded

    def let_in(self, name: str, *, tenant: str, allowed: bool) -> None:
        """Let calls of a model's versions in, or refuse them."""
        if allowed:
            self._unloaded.discard((tenant, name))
        else:
            self._unloaded.add((tenant, name))
        for tool in self.of(name, tenant=tenant):
            runner_of(tool).available = allowed

    def loaded(self, version: ModelVersion) -> ModelRunner | None:
        """Return what runs a version, or None before it was first needed."""
        tool = self._tools.get(_key(version))
        return None if tool is None else runner_of(tool)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do *work*, and cancel it at the end."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _retire(self, before: Registration | None) -> None:
        if before is not None:
            runner_of(before.tool).serving = False
            self.in_background(before.retire())


def runner_of(tool: Tool) -> ModelRunner:
    """Return the runner of a tool that is a model."""
    return cast("ModelRunner", tool.runner)


def _key(version: ModelVersion) -> _Key:
    return version.tenant, version.model, version.version
