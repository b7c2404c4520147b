"""Models that are verified and refused: tampered, signed by a stranger, not loadable, or named wrongly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from services.agent.tests.model_publisher import Publisher, agent, ask, publish

from aegis_agent.adapters.functions import function_tool, options_of
from aegis_agent.domain.errors import (
    ModelNotLoadable,
    ToolNameTaken,
    UnknownModel,
    UnknownModelVersion,
    UnknownTool,
)
from aegis_agent.testing import tools
from aegis_common.pki import new_ed25519
from aegis_common.signing import TrustedKeys
from aegis_common.store.errors import ModelDigestMismatch, ModelSignatureInvalid, ModelVersionNotInStore


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


async def test_a_signature_that_is_no_longer_trusted_is_not_served_after_a_restart(
    publisher: Publisher, make_linear: Callable[..., bytes], tmp_path: Path
) -> None:
    async with agent(publisher) as (_, models):
        await publish(models, publisher, "v1", make_linear(), "production")
    stranger = TrustedKeys([new_ed25519(tmp_path / "stranger.key").public_key()])

    async with agent(publisher, trusted=stranger) as (manager, models):
        with pytest.raises(UnknownTool):
            await ask(manager, [[1, 0, 0, 0]])
        with pytest.raises(UnknownModel):
            models.versions("colours", tenant="default")


async def test_tampered_bytes_are_refused(publisher: Publisher, make_linear: Callable[..., bytes]) -> None:
    sha256 = await publisher.put("v1", make_linear())
    blob = publisher.folder / "default" / "blobs" / "sha256" / sha256
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")

    async with agent(publisher) as (_, models):
        with pytest.raises(ModelDigestMismatch):
            await models.changes.publish(
                "colours", "v1", sha256=sha256, aliases=["production"], tenant="default", by="x"
            )


async def test_a_model_does_not_take_the_name_of_a_tool_of_its_tenant(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async def colours() -> str:
        return "mine"

    async with agent(publisher) as (manager, models):
        tool = function_tool("colours", colours, options_of(colours), manager.fork_server)
        manager.put_in(tool, owner="default")
        with pytest.raises(ToolNameTaken):
            await publish(models, publisher, "v1", make_linear(), "production")

        assert await manager.dispatch("colours", {}) == "mine"


async def test_another_digest_than_the_manifests_is_refused(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    await publisher.put("v1", make_linear())
    other = hashlib.sha256(b"other").hexdigest()

    async with agent(publisher) as (_, models):
        with pytest.raises(ModelDigestMismatch):
            await models.changes.publish("colours", "v1", sha256=other, aliases=[], tenant="default", by="x")


async def test_a_signature_by_a_stranger_is_refused(
    publisher: Publisher, make_linear: Callable[..., bytes], tmp_path: Path
) -> None:
    sha256 = await publisher.put("v1", make_linear())
    stranger = TrustedKeys([new_ed25519(tmp_path / "stranger.key").public_key()])

    async with agent(publisher, trusted=stranger) as (_, models):
        with pytest.raises(ModelSignatureInvalid):
            await models.changes.publish("colours", "v1", sha256=sha256, aliases=[], tenant="default", by="x")


async def test_a_version_of_another_tenant_is_not_in_the_store(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    sha256 = await publisher.put("v1", make_linear(), tenant="red")

    async with agent(publisher) as (_, models):
        with pytest.raises(ModelVersionNotInStore):
            await models.changes.publish("colours", "v1", sha256=sha256, aliases=[], tenant="blue", by="x")


@pytest.mark.parametrize(("data", "kind"), [(b"junk", "onnx"), (b"", "onnx"), (b"junk", "pickle")])
async def test_what_is_no_model_is_not_loadable_and_leaves_nothing(
    publisher: Publisher, data: bytes, kind: str
) -> None:
    async with agent(publisher) as (_, models):
        with pytest.raises(ModelNotLoadable):
            await publish(models, publisher, "v1", data, "production", format=kind)
        with pytest.raises(UnknownModel):
            models.versions("colours", tenant="default")


async def test_a_name_of_another_tool_is_taken(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:

    async with agent(publisher) as (manager, models):
        manager.register_tool("colours", tools.add)
        with pytest.raises(ToolNameTaken):
            await publish(models, publisher, "v1", make_linear(), "production")


async def test_an_alias_needs_a_version_that_was_published(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (_, models):
        with pytest.raises(UnknownModel):
            await models.moves.set_alias("colours", "production", "v1", tenant="default", by="x")
        await publish(models, publisher, "v1", make_linear())
        await publisher.put("v2", make_linear(shift=1))
        with pytest.raises(UnknownModelVersion):
            await models.moves.set_alias("colours", "production", "v2", tenant="default", by="x")
