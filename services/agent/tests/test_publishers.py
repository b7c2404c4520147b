"""What publisher keys sign: served for their tenant only, and no longer once they are compromised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from services.agent.tests.model_publisher import ADA, Publisher, agent, ask, publish, signed

from aegis_agent.adapters.models import library as models_library
from aegis_agent.adapters.models.publisher_keys import StoredPublisherKeys
from aegis_agent.domain.errors import UnknownTool
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.model_errors import ModelNotServed
from aegis_agent.domain.models import Models
from aegis_agent.domain.version_errors import ModelQuotaExceeded
from aegis_agent.manager import AgentManager
from aegis_common.store.errors import ModelSignatureInvalid, ModelVersionExists

Make = Callable[..., bytes]
Wait = Callable[[Callable[[], bool]], Awaitable[None]]
ROW = [[1.0, 0.0, 0.0, 0.0]]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


def served(manager: AgentManager) -> str:
    found = manager.registry.owned("colours", owner="default")
    return found.tool.model_version if found else ""


async def set_production(models: Models, version: str) -> None:
    await models.moves.set_alias("colours", "production", version, tenant="default", by="tester")


async def test_an_enrolled_key_counts_for_its_tenant_only(publisher: Publisher, make_linear: Make) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production", signer=signer)
        with pytest.raises(ModelSignatureInvalid):
            await publish(models, publisher, "v1", make_linear(), "production", signer=signer, tenant="blue")

        assert (await ask(manager, ROW)).value["labels"] == ["red"]


async def test_what_a_retired_key_signed_stays_served_and_nothing_new_is_taken(
    publisher: Publisher, make_linear: Make
) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (_, models):
        await publish(models, publisher, "v1", make_linear(), "production", signer=signer)
        await publisher.publishers().revoke(ADA, signer.key_id, compromised=False)
        with pytest.raises(ModelSignatureInvalid, match="revoked"):
            await publish(models, publisher, "v2", make_linear(shift=1), "production", signer=signer)
        await publish(models, publisher, "v1", make_linear(), "stable", signer=signer)
    async with agent(publisher) as (manager, models):
        aliases = await models.aliases("colours", tenant="default")

        assert (await ask(manager, ROW)).value["labels"] == ["red"]
        assert aliases == {"production": "v1", "stable": "v1"}
        assert [item.version for item in models.versions("colours", tenant="default")] == ["v1"]


async def test_what_a_compromised_key_signed_is_let_go_by_every_replica(
    publisher: Publisher, make_linear: Make, wait_until: Wait
) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (here, one), agent(publisher) as (there, two):
        await publish(one, publisher, "v1", make_linear(shift=1))
        await publish(one, publisher, "v2", make_linear(), "production", signer=signer)
        await wait_until(lambda: served(there) == "v2")
        beside = await two.find("colours", "v2", tenant="default")
        await publisher.publishers().revoke(ADA, signer.key_id, compromised=True)
        await wait_until(lambda: served(here) == served(there) == "")

        assert beside.tool.model_version == "v2"
        for manager, models in ((here, one), (there, two)):
            with pytest.raises(UnknownTool):
                await ask(manager, ROW)
            with pytest.raises(ModelSignatureInvalid, match="compromised"):
                await models.find("colours", "v2", tenant="default")
            with pytest.raises(ModelNotServed):
                await models.find("colours", "", tenant="default")
            with pytest.raises(ModelSignatureInvalid):
                await set_production(models, "v2")
            assert models.version("colours", "v2", tenant="default").distrusted
        await set_production(two, "v1")
        await wait_until(lambda: served(here) == served(there) == "v1")


async def test_what_a_compromised_key_signed_is_not_served_after_a_restart(
    publisher: Publisher, make_linear: Make
) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (_, models):
        await publish(models, publisher, "v1", make_linear(), "production", signer=signer)
    await publisher.publishers().revoke(ADA, signer.key_id, compromised=True)

    async with agent(publisher) as (manager, models):
        assert served(manager) == ""
        assert [item.distrusted for item in models.versions("colours", tenant="default")] == [True]
        with pytest.raises(ModelSignatureInvalid, match="compromised"):
            await publish(models, publisher, "v1", make_linear(), "production", signer=signer)


async def bring(models: Models, envelope: bytes, data: bytes, *aliases: str) -> ModelVersion:
    async def content(_: ModelVersion) -> bytes:
        return data

    done = await models.changes.bring(
        "colours",
        "v1",
        envelope=envelope,
        content=content,
        aliases=aliases,
        tenant="default",
        by="tester",
    )
    return done.value


async def test_of_two_imports_of_one_id_at_two_replicas_one_wins_on_both(
    publisher: Publisher, make_linear: Make, wait_until: Wait
) -> None:
    signer = await publisher.enrolled(ADA)
    files = [make_linear(), make_linear(shift=1)]
    async with agent(publisher) as (here, one), agent(publisher) as (there, two):
        results = await asyncio.gather(
            *(
                bring(models, signed(signer, data), data, "production")
                for models, data in ((one, files[0]), (two, files[1]))
            ),
            return_exceptions=True,
        )
        await wait_until(lambda: served(here) == served(there) == "v1")
        answers = [(await ask(manager, ROW)).value["labels"] for manager in (here, there)]
        known = [models.version("colours", "v1", tenant="default") for models in (one, two)]

    won = [result for result in results if isinstance(result, ModelVersion)]
    assert [type(result) for result in results if result not in won] == [ModelVersionExists]
    assert known == won * 2
    assert answers[0] == answers[1]


async def test_the_files_of_a_tenant_have_a_bound_together(publisher: Publisher, make_linear: Make) -> None:
    signer = await publisher.enrolled(ADA)
    stored, more = make_linear(), make_linear(shift=1)
    await publisher.put("v0", stored)
    library = models_library.StoredModels(
        publisher.objects,
        publisher.trusted,
        keys=StoredPublisherKeys(publisher.objects, publisher.seal),
        max_model_bytes=1 << 20,
        quota_bytes=len(stored) + len(more) - 1,
    )

    shared = await library.claim("default", "colours", "v1", signed(signer, stored))
    assert shared.size_bytes == len(stored)
    with pytest.raises(ModelQuotaExceeded, match=f"{len(more)} more are over the quota"):
        await library.claim("default", "colours", "v1", signed(signer, more))


async def test_a_key_that_is_compromised_in_one_tenant_says_nothing_about_another(
    publisher: Publisher, make_linear: Make, wait_until: Wait
) -> None:
    signer = await publisher.enrolled(ADA)
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production", tenant="blue")
        await publish(models, publisher, "v1", make_linear(), "production", signer=signer)
        await publisher.publishers().revoke(ADA, signer.key_id, compromised=True)
        await wait_until(lambda: served(manager) == "")

        assert (await ask(manager, ROW, tenant="blue")).value["labels"] == ["red"]
