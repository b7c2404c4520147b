"""Models that somebody has loaded or unloaded: all replicas do it."""

from __future__ import annotations

from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import LOADING_TOPIC, ModelLibrary
from aegis_agent.domain.model_errors import ModelNotServed
from aegis_agent.domain.model_tools import ModelTools, runner_of
from aegis_agent.domain.replicas import Changed


class ModelLoading:
    """Loads and unloads models here, and writes it down for all replicas.

    Args:
        library: Where it is written down.
        known: Versions that this replica knows.
        tools: What runs them in this replica.
    """

    def __init__(self, library: ModelLibrary, known: KnownVersions, tools: ModelTools) -> None:
        self._library = library
        self._known = known
        self._tools = tools
        self._seen: dict[tuple[str, str], int] = {}

    async def load(self, name: str, *, tenant: str, by: str) -> Changed[None]:
        """Bring the version that answers into memory on all replicas, and let calls in after an `unload`.

        Raises:
            UnknownModel: The tenant has no such model.
            ModelNotServed: No version answers.
            AegisError: Why it cannot be loaded.
        """
        self._known.of(name, tenant=tenant)
        async with self._tools.lock(tenant, name):
            await self._into_memory(name, tenant=tenant)
            await self._record(name, tenant=tenant, loaded=True, by=by)
            self._tools.let_in(name, tenant=tenant, allowed=True)
            return Changed(None, await self._library.announce(tenant, name, [LOADING_TOPIC]))

    async def unload(self, name: str, *, tenant: str, by: str) -> Changed[None]:
        """Free a model's memory on all replicas; calls in flight finish.

        Later ones are refused until it is loaded again, or its alias moves.

        Raises:
            UnknownModel: The tenant has no such model.
        """
        self._known.of(name, tenant=tenant)
        async with self._tools.lock(tenant, name):
            await self._record(name, tenant=tenant, loaded=False, by=by)
            self._free(name, tenant=tenant)
            return Changed(None, await self._library.announce(tenant, name, [LOADING_TOPIC]))

    async def reopen(self, name: str, *, tenant: str, by: str) -> list[str]:
        """Write down that a model answers again, as its alias moves; return what has been changed.

        Call it with the model's lock held.
        """
        if self._tools.is_open(name, tenant=tenant):
            return []
        await self._record(name, tenant=tenant, loaded=True, by=by)
        return [LOADING_TOPIC]

    async def follow(self, name: str, *, tenant: str) -> None:
        """Load or unload a model if somebody has asked for it since the last time.

        Raises:
            AegisError: Why it cannot be loaded.
        """
        async with self._tools.lock(tenant, name):
            wanted = await self._library.loading(tenant, name)
            seen = self._seen.get((tenant, name))
            if wanted.number == seen:
                return
            if not wanted.loaded:
                self._free(name, tenant=tenant)
            elif seen is not None:  # at the first look, being served is enough
                await self._into_memory(name, tenant=tenant)
                self._tools.let_in(name, tenant=tenant, allowed=True)
            self._seen[tenant, name] = wanted.number

    async def _into_memory(self, name: str, *, tenant: str) -> None:
        found = self._tools.answering(name, tenant=tenant)
        if found is None:
            raise ModelNotServed.named(name)
        await runner_of(found.tool).load()

    async def _record(self, name: str, *, tenant: str, loaded: bool, by: str) -> None:
        done = await self._library.set_loading(tenant, name, loaded=loaded, by=by)
        self._seen[tenant, name] = done.number

    def _free(self, name: str, *, tenant: str) -> None:
        self._tools.let_in(name, tenant=tenant, allowed=False)
        for tool in self._tools.of(name, tenant=tenant):
            runner_of(tool).unload()
