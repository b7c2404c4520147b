"""Loads bundles without a store, and calls them; publishes them with one."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import Any, Self

from services.agent.tests.model_publisher import Publisher, publish

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.call import NOBODY, Call
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.models import Models
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import Tool
from aegis_common.store.bundle import FORMAT_BUNDLE


async def put(models: Models, publisher: Publisher, version: str, data: bytes, *aliases: str) -> None:
    """Publish a bundle as a version of the model `colours`."""
    await publish(models, publisher, version, data, *aliases, format=FORMAT_BUNDLE, provenance={})


class Bundles:
    """Loads and calls bundles without a store; as a context manager, it frees all in the end."""

    def __init__(self, server: ForkServer, *, shared: Slots | None = None, **options: Any) -> None:
        self.loader = OnnxLoader(server, ModelOptions(**options), shared=shared)
        self.fetched = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.loader.close()

    async def load(self, data: bytes, name: str = "m") -> Tool:
        async def fetch() -> bytes:
            self.fetched += 1
            return data

        return await self.loader.load(version_of(data, name), data, fetch)


def version_of(data: bytes, name: str = "m") -> ModelVersion:
    return ModelVersion(
        tenant="default",
        model=name,
        version="v1",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        format=FORMAT_BUNDLE,
        provenance={},
        signer_key_id="",
        create_time=datetime(2026, 11, 25, tzinfo=UTC),
    )


async def ask(tool: Tool, timeout_s: float = 60, **arguments: Any) -> Any:
    """Call a tool as the dispatcher does: checks, run, and the answer against its own schema."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    checked = tool.checks.input(arguments)
    async with asyncio.timeout_at(deadline):
        value = await tool.runner.run(Call(arguments=checked, caller=NOBODY, deadline=deadline))
    SchemaChecks(tool.spec).output(value)
    return value
