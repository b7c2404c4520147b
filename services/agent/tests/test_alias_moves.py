"""Aliases that go back or away, and versions that are deleted: in force on every replica."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from services.agent.tests.model_publisher import ADA, Publisher, agent, ask, publish

from aegis_agent.adapters.models import library as stored
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.domain.alias_moves import versions_before
from aegis_agent.domain.errors import UnknownModel, UnknownModelVersion, UnknownTool
from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import AliasMove
from aegis_agent.domain.model_checks import CheckKind, ModelChecks
from aegis_agent.domain.model_errors import ModelNotServed
from aegis_agent.domain.models import Models
from aegis_agent.domain.version_errors import (
    ModelVersionDeleted,
    ModelVersionInUse,
    NoEarlierVersion,
    UnknownAlias,
)
from aegis_agent.manager import AgentManager
from aegis_common.store.bundle import FORMAT_BUNDLE
from aegis_common.store.errors import AliasConflict, ModelVersionNotInStore
from bundle_support import COLOURS, RED, bundle, mean_colour, picture

Make = Callable[..., bytes]
Wait = Callable[[Callable[[], bool]], Awaitable[None]]
ROW = [[1.0, 0.0, 0.0, 0.0]]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


def served(manager: AgentManager) -> str:
    found = manager.registry.owned("colours", owner="default")
    return found.tool.model_version if found else ""


async def rollback(models: Models, *, from_version: str = "") -> tuple[str, str]:
    done = await models.moves.rollback(
        "colours", "production", from_version=from_version, tenant="default", by="tester"
    )
    return done.value.before, done.value.after


async def remove(models: Models, alias: str = "production") -> None:
    await models.moves.remove("colours", alias, tenant="default", by="tester")


async def delete(models: Models, version: str, model: str = "colours") -> None:
    await models.changes.delete(model, version, tenant="default", by="tester")


async def publish_three(models: Models, publisher: Publisher, make_linear: Make) -> None:
    for number in (1, 2, 3):
        await publish(models, publisher, f"v{number}", make_linear(shift=number - 1), "production")


@pytest.mark.parametrize(
    ("history", "before"),
    [
        ("v1", ""),
        ("v1 v2 v3", "v2 v1"),
        ("v1 v2 v3 v2", "v1"),
        ("v1 v2 v1", ""),
        ("v1 - v2", "v1"),
        ("v1 v2 v3 v2 v4", "v2 v1"),
    ],
)
def test_the_version_before_is_the_one_that_was_left_going_forward(history: str, before: str) -> None:
    moves = [AliasMove(number, "" if id_ == "-" else id_) for number, id_ in enumerate(history.split(), 1)]

    assert versions_before(moves) == before.split()


async def test_an_alias_goes_back_step_by_step(publisher: Publisher, make_linear: Make) -> None:
    async with agent(publisher) as (manager, models):
        await publish_three(models, publisher, make_linear)
        first = await rollback(models, from_version="v3")
        seen = (await ask(manager, ROW)).value["labels"]
        with pytest.raises(AliasConflict, match="points at 'v2', not 'v3'"):
            await rollback(models, from_version="v3")
        second = await rollback(models)
        with pytest.raises(NoEarlierVersion):
            await rollback(models)

        assert (first, second, served(manager)) == (("v3", "v2"), ("v2", "v1"), "v1")
        assert seen == ["green"]


async def test_going_back_passes_over_what_is_deleted_or_not_trusted(
    publisher: Publisher, make_linear: Make
) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        await publish(models, publisher, "v2", make_linear(shift=1), "production", signer=signer)
        await publish(models, publisher, "v3", make_linear(shift=2), "production")
        await publish(models, publisher, "v4", make_linear(shift=3), "production")
        await publisher.publishers().revoke(ADA, signer.key_id, compromised=True)
        await delete(models, "v3")

        assert await rollback(models) == ("v4", "v1")
        assert served(manager) == "v1"


async def test_moves_that_make_no_sense_say_why(publisher: Publisher, make_linear: Make) -> None:
    async with agent(publisher) as (_, models):
        with pytest.raises(UnknownModel):
            await rollback(models)
        with pytest.raises(UnknownModel):
            await remove(models)
        await publish(models, publisher, "v1", make_linear(), "production")
        with pytest.raises(UnknownAlias, match="'stable'"):
            await remove(models, "stable")
        await remove(models)
        with pytest.raises(UnknownAlias):
            await remove(models)
        with pytest.raises(UnknownAlias):
            await rollback(models)


async def test_without_production_the_tool_is_gone_on_every_replica(
    publisher: Publisher, make_linear: Make, wait_until: Wait
) -> None:
    async with agent(publisher) as (here, one), agent(publisher) as (there, two):
        await publish(one, publisher, "v1", make_linear(), "production")
        await wait_until(lambda: served(there) == "v1")
        await remove(two)
        await wait_until(lambda: served(here) == "")

        for manager, models in ((here, one), (there, two)):
            with pytest.raises(UnknownTool):
                await ask(manager, ROW)
            with pytest.raises(ModelNotServed):
                await models.find("colours", "", tenant="default")
            assert (await models.find("colours", "v1", tenant="default")).tool.model_version == "v1"


async def test_a_version_goes_when_no_alias_points_at_it_and_on_every_replica(
    publisher: Publisher, make_linear: Make, wait_until: Wait
) -> None:
    async with agent(publisher) as (_, one), agent(publisher) as (there, two):
        await publish(one, publisher, "v1", make_linear(), "stable", "production")
        await publish(one, publisher, "v2", make_linear(shift=1), "production")
        await wait_until(lambda: served(there) == "v2")
        await two.find("colours", "v1", tenant="default")
        with pytest.raises(ModelVersionInUse, match="stable points at version 'v1'") as caught:
            await delete(one, "v1")
        await remove(one, "stable")
        await delete(one, "v1")
        await wait_until(lambda: two.ids("default", "colours") == ["v2"])

        assert caught.value.metadata["aliases"] == "stable"
        for models in (one, two):
            with pytest.raises(UnknownModelVersion):
                await models.find("colours", "v1", tenant="default")
        with pytest.raises(UnknownModelVersion):
            await delete(one, "v1")
        assert served(there) == "v2"
    async with agent(publisher) as (_, models):
        assert models.ids("default", "colours") == ["v2"]


async def test_with_its_last_version_a_model_is_gone_and_its_id_is_never_used_again(
    publisher: Publisher, make_linear: Make, wait_until: Wait
) -> None:
    async with agent(publisher) as (_, one), agent(publisher) as (there, two):
        await publish(one, publisher, "v1", make_linear(), "production")
        await wait_until(lambda: served(there) == "v1")
        await remove(one)
        await delete(one, "v1")
        await wait_until(lambda: two.names() == [])

        with pytest.raises(UnknownModel):
            await one.model("colours", tenant="default")
        assert await publisher.objects.list("default/blobs") == []
        with pytest.raises(ModelVersionNotInStore):
            sha256 = "0" * 64
            await one.changes.publish("colours", "v1", sha256=sha256, aliases=[], tenant="default", by="x")
        with pytest.raises(ModelVersionDeleted):
            await publish(one, publisher, "v1", make_linear(), "production")
        assert served(there) == ""


async def test_an_alias_that_moves_while_its_version_is_deleted_elsewhere_moves_back(
    publisher: Publisher, make_linear: Make
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        await publish(models, publisher, "v2", make_linear(shift=1))
        found = models.version("colours", "v2", tenant="default")
        await models._library.bury(found, by="another replica")

        with pytest.raises(UnknownModelVersion, match="just been deleted"):
            await models.moves.set_alias("colours", "production", "v2", tenant="default", by="tester")
        assert await models.aliases("colours", tenant="default") == {"production": "v1"}
        assert served(manager) == "v1"


async def test_a_sound_version_passes_every_check_while_it_serves(
    publisher: Publisher, make_linear: Make
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        checks = await models.checks.verify("colours", "v1", tenant="default")

        assert [(check.kind, check.passed) for check in checks] == [
            (CheckKind.SIGNATURE, True), (CheckKind.DIGEST, True), (CheckKind.LOAD, True),
        ]  # fmt: skip
        assert (await ask(manager, ROW)).value["labels"] == ["red"]


async def test_an_example_that_fails_is_told_apart_from_the_load(publisher: Publisher) -> None:
    leaf = {"input": {"image": {"file": "a.png"}}, "output": {"labels": [{"label": "green"}]}}
    data = bundle(COLOURS, mean_colour(), {"a.png": picture(RED)}, examples=[leaf])
    await publisher.put("v1", data, format=FORMAT_BUNDLE)
    async with agent(publisher) as (manager, _):
        library = stored.StoredModels(publisher.objects, publisher.trusted, max_model_bytes=1 << 20)
        loader, known = OnnxLoader(manager.fork_server, ModelOptions()), KnownVersions()
        known.put(await library.version("default", "colours", "v1"))
        checks = await ModelChecks(library, loader, known).verify("colours", "v1", tenant="default")
        await loader.close()

    assert [(check.kind, check.reason) for check in checks[2:]] == [
        (CheckKind.LOAD, ""), (CheckKind.EXAMPLE, "MODEL_EXAMPLE_FAILED"),
    ]  # fmt: skip


async def test_checks_end_with_the_first_that_fails(publisher: Publisher, make_linear: Make) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (_, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        await publish(models, publisher, "v2", make_linear(shift=1), signer=signer)
        blob = models.version("colours", "v1", tenant="default").sha256
        path = publisher.folder / "default" / "blobs" / "sha256" / blob
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
        tampered = await models.checks.verify("colours", "v1", tenant="default")
        await publisher.publishers().revoke(ADA, signer.key_id, compromised=True)
        distrusted = await models.checks.verify("colours", "v2", tenant="default")
        shutil.rmtree(publisher.folder / "default" / "models")
        gone = await models.checks.verify("colours", "v1", tenant="default")

    assert [(check.kind, check.reason) for check in tampered] == [
        (CheckKind.SIGNATURE, ""), (CheckKind.DIGEST, "MODEL_DIGEST_MISMATCH"),
    ]  # fmt: skip
    assert [(check.kind, check.passed, check.reason) for check in distrusted] == [
        (CheckKind.SIGNATURE, False, "MODEL_SIGNATURE_INVALID")
    ]
    assert [check.reason for check in gone] == ["MODEL_VERSION_NOT_IN_STORE"]
