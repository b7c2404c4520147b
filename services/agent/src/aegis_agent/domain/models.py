"""Models: which versions have been published to this agent, and which one answers."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from aegis_agent.domain.errors import UnknownModel, UnknownModelVersion
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import Tool
from aegis_common.errors import AegisError, ErrorKind

PRODUCTION: Final = "production"
"""The alias that the model's tool serves."""

_FIRST_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 30.0
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One immutable version, as its signed manifest describes it.

    Attributes:
        sha256: Digest of the model file, 64 lower-case hex digits.
        size_bytes: Size of the model file.
        provenance: Training run, data set, metrics, and the limits of its domain.
        create_time: When the manifest was made, UTC.
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


class ModelLibrary(Protocol):
    """Where versions, aliases, and the record of what was published to this agent are kept."""

    async def version(self, tenant: str, model: str, version: str) -> ModelVersion:
        """Return a version whose signature has been verified."""
        ...

    async def data(self, version: ModelVersion, *, sha256: str) -> bytes:
        """Return the model file, whose digest is *sha256* and what the manifest says."""
        ...

    async def aliases(self, tenant: str, model: str) -> dict[str, str]: ...

    async def set_alias(self, tenant: str, model: str, alias: str, version: str, *, by: str) -> None: ...

    async def remember(self, version: ModelVersion, *, by: str) -> None:
        """Record that the version has been published; a second time changes nothing."""
        ...

    async def published(self) -> list[tuple[str, str, str]]:
        """Return tenant, model and version of everything that was ever published."""
        ...


class ModelLoader(Protocol):
    async def load(self, version: ModelVersion, data: bytes) -> Tool:
        """Return a tool that is ready to serve the version.

        Raises:
            ModelNotLoadable: The file is no model that can be served.
        """
        ...


class Models:
    """The models of all tenants; a tenant sees its own only."""

    def __init__(self, library: ModelLibrary, loader: ModelLoader, registry: Registry) -> None:
        self._library = library
        self._loader = loader
        self._registry = registry
        self._versions: dict[str, dict[str, dict[str, ModelVersion]]] = defaultdict(lambda: defaultdict(dict))
        self._locks: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Serve again what was served before; what the store cannot give now is tried again later."""
        left = await self._restore(await self._try_published())
        if left is None or left:
            self._in_background(self._keep_restoring(left))

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

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
    ) -> ModelVersion:
        """Verify, load and remember a version, then point *aliases* at it.

        Raises:
            ToolNameTaken: A tool that is no model has the name.
            ModelNotLoadable: The file is no model that can be served.
            AegisError: `MODEL_VERSION_NOT_IN_STORE`, `MODEL_SIGNATURE_INVALID`, `MODEL_DIGEST_MISMATCH` or
                `ALIAS_CONFLICT`, as the library says.
        """
        self._registry.check_free(name)
        async with self._locks[tenant, name]:
            found = await self._library.version(tenant, name, version)
            data = await self._library.data(found, sha256=sha256)
            tool = None if self._served(tenant, name) == version else await self._loader.load(found, data)
            try:
                await self._library.remember(found, by=by)
                self._versions[tenant][name][version] = found
                for alias in sorted(set(aliases)):
                    await self._library.set_alias(tenant, name, alias, version, by=by)
                    if alias == PRODUCTION and tool is not None:
                        self._swap(tool, tenant)
                        tool = None
            finally:
                if tool is not None:
                    await tool.runner.close()
        return found

    async def set_alias(self, name: str, alias: str, version: str, *, tenant: str, by: str) -> Model:
        """Point an alias at a version that has been published.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
            AegisError: `ALIAS_CONFLICT`, or why the version can no longer be loaded.
        """
        known = self.versions(name, tenant=tenant)
        found = next((item for item in known if item.version == version), None)
        if found is None:
            raise UnknownModelVersion(
                f"version {version!r} of model {name!r} has not been published; there are "
                f"{', '.join(item.version for item in known[:10])}",
                model=name,
                version=version,
            )
        async with self._locks[tenant, name]:
            moves = alias == PRODUCTION and self._served(tenant, name) != version
            tool = await self._load(found) if moves else None
            try:
                await self._library.set_alias(tenant, name, alias, version, by=by)
                if tool is not None:
                    self._swap(tool, tenant)
                    tool = None
            finally:
                if tool is not None:
                    await tool.runner.close()
        return await self._model(tenant, name)

    async def _load(self, version: ModelVersion) -> Tool:
        return await self._loader.load(version, await self._library.data(version, sha256=version.sha256))

    def _swap(self, tool: Tool, tenant: str) -> None:
        before = self._registry.swap(tool, tenant=tenant)
        if before is not None:
            self._in_background(before.retire())

    async def _model(self, tenant: str, name: str) -> Model:
        return Model(
            name=name,
            aliases=await self._library.aliases(tenant, name),
            served=self._served(tenant, name),
            update_time=max(item.create_time for item in self._versions[tenant][name].values()),
        )

    def _served(self, tenant: str, name: str) -> str:
        tool = next((item for item in self._registry.tools(tenant=tenant) if item.spec.name == name), None)
        return tool.model_version if tool is not None else ""

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Restoring after a start.

    async def _try_published(self) -> list[tuple[str, str, str]] | None:
        try:
            return await self._library.published()
        except AegisError as error:
            _log.warning("published models cannot be read now", extra={"error": error.message})
            return None

    async def _restore(self, entries: list[tuple[str, str, str]] | None) -> list[tuple[str, str, str]] | None:
        """Take *entries* in; return those to try again, or None when there is no list yet."""
        if entries is None:
            return None
        left = [entry for entry in entries if not await self._known_again(entry)]
        names = sorted({(tenant, model) for tenant, model, _ in entries})
        retry = {name for name in names if not await self._served_again(*name)}
        return left + [entry for entry in entries if entry[:2] in retry and entry not in left]

    async def _known_again(self, entry: tuple[str, str, str]) -> bool:
        tenant, model, version = entry
        try:
            self._versions[tenant][model][version] = await self._library.version(tenant, model, version)
        except AegisError as error:
            return _give_up(error, f"{tenant}/{model}", version)
        return True

    async def _served_again(self, tenant: str, model: str) -> bool:
        version = ""
        try:
            async with self._locks[tenant, model]:
                version = (await self._library.aliases(tenant, model)).get(PRODUCTION, "")
                known = self._versions[tenant][model].get(version)
                if known is not None and self._served(tenant, model) != version:
                    self._swap(await self._load(known), tenant)
        except AegisError as error:
            return _give_up(error, f"{tenant}/{model}", version)
        return True

    async def _keep_restoring(self, left: list[tuple[str, str, str]] | None) -> None:
        pause = _FIRST_RETRY_S
        while left is None or left:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_RETRY_S)
            left = await self._restore(await self._try_published() if left is None else left)


def _give_up(error: AegisError, model: str, version: str) -> bool:
    """Log why a model is not served again; return whether trying again is useless."""
    final = error.kind is not ErrorKind.UNAVAILABLE
    extra = {"model": model, "version": version, "reason": error.reason, "error": error.message}
    _log.log(logging.ERROR if final else logging.WARNING, "model is not served again", extra=extra)
    return final
