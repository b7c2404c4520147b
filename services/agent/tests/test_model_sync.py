"""Two replicas over one model store: what is published or moved at one is served by the other."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from services.agent.tests.model_publisher import Publisher, agent, ask, publish

from aegis_agent.adapters.models.library import StoredModels
from aegis_agent.domain.model_sync import ModelSync
from aegis_agent.manager import AgentManager
from aegis_common.clock import utc_now

Make = Callable[..., bytes]
Wait = Callable[[Callable[[], bool]], Awaitable[None]]
CHANGES = "aegis-system/agent-model-changes"


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


def served(manager: AgentManager) -> str:
    found = manager.registry.owned("colours", owner="default")
    return found.tool.model_version if found else ""


async def test_what_one_replica_publishes_the_other_serves(
    publisher: Publisher,
    make_linear: Make,
    wait_until: Wait,
) -> None:
    async with agent(publisher) as (_, here), agent(publisher) as (there, _):
        await publish(here, publisher, "v1", make_linear(), "production")
        await wait_until(lambda: served(there) == "v1")
        first = (await ask(there, [[1, 0, 0, 0]])).value["labels"]
        await publish(here, publisher, "v2", make_linear(shift=1), "production")
        await wait_until(lambda: served(there) == "v2")
        second = (await ask(there, [[1, 0, 0, 0]])).value["labels"]

    assert (first, second) == (["red"], ["green"])


async def test_a_roll_back_at_one_replica_is_one_at_the_other(
    publisher: Publisher,
    make_linear: Make,
    wait_until: Wait,
) -> None:
    async with agent(publisher) as (_, here), agent(publisher) as (there, other):
        await publish(here, publisher, "v1", make_linear(), "production")
        await publish(here, publisher, "v2", make_linear(shift=1), "production")
        await wait_until(lambda: served(there) == "v2")
        await here.moves.set_alias("colours", "production", "v1", tenant="default", by="tester")
        await wait_until(lambda: served(there) == "v1")

        assert [item.version for item in other.versions("colours", tenant="default")] == ["v2", "v1"]


async def test_a_replica_that_was_never_told_finds_out_when_it_looks_at_everything(
    publisher: Publisher,
    make_linear: Make,
) -> None:
    async with agent(publisher) as (_, here), agent(publisher) as (there, other):
        await other.close()  # from here on it looks when the test says so
        library = StoredModels(publisher.objects, publisher.trusted, max_model_bytes=1 << 20)
        rarely, always = (
            ModelSync(library, other, whole_every=every) for every in (timedelta(hours=1), timedelta(0))
        )
        await rarely.turn()
        await publish(here, publisher, "v1", make_linear(), "production")
        for key in await publisher.objects.list(CHANGES):
            await publisher.objects.delete(key)
        await rarely.turn()
        before = served(there)
        await always.turn()

        assert (before, served(there)) == ("", "v1")


async def test_marks_go_after_ten_minutes(publisher: Publisher, make_linear: Make) -> None:
    async with agent(publisher) as (_, here):
        await publish(here, publisher, "v1", make_linear(), "production")
        await here.moves.set_alias("colours", "candidate", "v1", tenant="default", by="tester")
        await here.close()
    marks = await publisher.objects.list(CHANGES)
    for key in marks[:1]:
        age(publisher.folder / key, minutes=11)

    library = StoredModels(publisher.objects, publisher.trusted, max_model_bytes=1 << 20)
    told = await library.changes()

    assert [change.id for change in told] == marks[1:] == await publisher.objects.list(CHANGES)
    assert {(change.tenant, change.model) for change in told} == {("default", "colours")}


async def test_a_mark_that_cannot_be_read_hides_no_other(
    publisher: Publisher, make_linear: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent(publisher) as (_, here):
        await here.close()
        newer = b'{"schema_version": 99}'
        await publisher.objects.put_if_absent(f"{CHANGES}/newer.json", newer)
        await publish(here, publisher, "v1", make_linear(), "production")
    library = StoredModels(publisher.objects, publisher.trusted, max_model_bytes=1 << 20)
    told = [await library.changes() for _ in range(2)]

    assert [[change.model for change in changes] for changes in told] == [["colours"]] * 2
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1


async def test_a_version_that_can_never_be_served_is_told_once_and_harms_no_other(
    publisher: Publisher,
    make_linear: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with agent(publisher) as (_, here):
        await publish(here, publisher, "v1", make_linear(), "production")
        await publish(here, publisher, "v2", make_linear(shift=1))
        manifest = publisher.folder / "default/models/colours/versions/v2.json"
        manifest.write_bytes(manifest.read_bytes()[:-5])
    async with agent(publisher) as (there, other):
        await other.close()
        library = StoredModels(publisher.objects, publisher.trusted, max_model_bytes=1 << 20)
        sync = ModelSync(library, other, whole_every=timedelta(0))
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                await sync.turn()

        assert served(there) == "v1"
        told = [record for record in caplog.records if record.message == "models are not up to date"]
        assert len(told) == 1


def age(path: Path, *, minutes: int) -> None:
    """Make a file look as if it was written so long ago."""
    then: datetime = utc_now() - timedelta(minutes=minutes)
    os.utime(path, (then.timestamp(), then.timestamp()))
