"""A publisher of signed models, and an agent that serves them, for tests of models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aegis_agent import AgentManager
from aegis_agent.adapters.models.library import StoredModels
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.models import Models
from aegis_agent.domain.result import Result
from aegis_common.pki import new_ed25519
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore

PROVENANCE = {"domain": "test rows", "labels": ["red", "green", "blue"], "accuracy": 0.9}
NONE_TRUSTED = TrustedKeys()


class Publisher:
    """What the coordinator does: puts signed versions into the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.objects = ObjectStore.open(f"file://{self.folder}")
        self.signer = Signer(new_ed25519(folder / "signing.key"))
        self.now = datetime(2026, 11, 25, tzinfo=UTC)
        self._store = ModelStore(self.objects, self.signer, NONE_TRUSTED, clock=self._tick)

    @property
    def trusted(self) -> TrustedKeys:
        return TrustedKeys([self.signer.public_key])

    def _tick(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now

    async def put(self, version: str, data: bytes, *, tenant: str = "default", **changes: Any) -> str:
        fields = {"format": "onnx", "provenance": PROVENANCE, "model": "colours"} | changes
        model = fields.pop("model")
        manifest = await self._store.publish(tenant, model, version, data, **fields)
        return manifest.sha256


@asynccontextmanager
async def agent(
    publisher: Publisher, *, trusted: TrustedKeys | None = None
) -> AsyncIterator[tuple[AgentManager, Models]]:
    async with AgentManager() as manager:
        library = StoredModels(publisher.objects, trusted or publisher.trusted, max_model_bytes=1 << 20)
        models = Models(library, OnnxLoader(manager.fork_server, ModelOptions()), manager.registry)
        await models.start()
        try:
            yield manager, models
        finally:
            await models.close()


async def publish(
    models: Models,
    publisher: Publisher,
    version: str,
    data: bytes,
    *aliases: str,
    tenant: str = "default",
    **changes: Any,
) -> None:
    sha256 = await publisher.put(version, data, tenant=tenant, **changes)
    name = changes.get("model", "colours")
    await models.publish(name, version, sha256=sha256, aliases=aliases, tenant=tenant, by="tester")


async def ask(manager: AgentManager, rows: list[list[float]], *, tenant: str = "default") -> Result:
    return await manager.dispatcher.dispatch(Action("colours", {"input": rows}), caller=Caller(tenant=tenant))
