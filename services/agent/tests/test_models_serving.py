"""Models: loaded, served as tools, swapped in one step, and served again after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from services.agent.tests.model_publisher import Publisher, agent, ask, publish

from aegis_agent.domain.call import NOBODY
from aegis_agent.domain.errors import (
    InvalidToolInput,
    ToolFailed,
    UnknownModel,
    UnknownTool,
)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


async def test_a_published_model_is_served_as_a_tool(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")

        result = await ask(manager, [[0, 1, 0, 0], [0, 0, 0.5, 0]])
        spec = result.tool.spec

    assert result.value == {"scores": [[0, 1, 0], [0, 0, 0.5]], "labels": ["green", "blue"]}
    assert (result.tool.model_version, spec.version, spec.model) == ("v1", "v1", "colours")
    assert result.tool.warnings == ("domain of the model: test rows",)
    assert spec.input_schema["properties"]["input"] == {
        "type": "array",
        "minItems": 1,
        "items": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
        "description": "float32 n x 4",
    }


async def test_without_the_alias_production_nothing_is_served(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "candidate")

        model = await models.model("colours", tenant="default")
        with pytest.raises(UnknownTool):
            await ask(manager, [[0, 0, 0, 0]])

    assert (dict(model.aliases), model.served) == ({"candidate": "v1"}, "")


async def test_labels_are_numbers_where_the_manifest_names_none(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production", provenance={})

        assert (await ask(manager, [[0, 0, 7, 0]])).value["labels"] == [2]


async def test_labels_and_domain_of_a_training_app_count(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    about = {"model": {"labels": ["a", "b", "c"], "domain": "letters"}}
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production", provenance=about)

        result = await ask(manager, [[1, 0, 0, 0]])

    assert (result.value["labels"], result.tool.warnings) == (["a"], ("domain of the model: letters",))


async def test_a_model_of_several_inputs_and_outputs_is_served(
    publisher: Publisher, make_sum: Callable[[], bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_sum(), "production", model="sums")

        assert await manager.dispatch("sums", {"a": [1, 2], "b": [3, 4]}) == {
            "sum": [4, 6],
            "product": [3, 8],
        }


@pytest.mark.parametrize(
    ("payload", "path", "rule"),
    [
        ({}, "input", "required"),
        ({"input": [[1, 2, 3, 4]], "rows": 1}, "rows", "additionalProperties"),
        ({"input": [[1, 2, 3]]}, "input", "shape"),
        ({"input": [1, 2, 3, 4]}, "input", "shape"),
        ({"input": [[1, 2, 3, 4], [1]]}, "input", "shape"),
        ({"input": []}, "input", "shape"),
        ({"input": [["a", "b", "c", "d"]]}, "input", "type"),
        ({"input": [[1, None, 3, 4]]}, "input", "type"),
        ({"input": "pixels"}, "input", "type"),
    ],
)
async def test_a_tensor_that_does_not_fit_names_the_input_and_the_rule(
    publisher: Publisher, make_linear: Callable[..., bytes], payload: dict[str, Any], path: str, rule: str
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")

        with pytest.raises(InvalidToolInput) as caught:
            await manager.dispatch("colours", payload)

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == (path, rule)


async def test_a_result_that_json_cannot_carry_is_an_error(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")

        with pytest.raises(ToolFailed) as caught:
            await ask(manager, [[3e38, 0, 0, 3e38]])

    assert "NaN or infinity" in caught.value.message


async def test_moving_the_alias_swaps_the_version_in_one_step(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        await publish(models, publisher, "v2", make_linear(shift=1))
        before = (await ask(manager, [[1, 0, 0, 0]])).value["labels"]
        stop = asyncio.Event()
        seen: list[tuple[str, str]] = []

        async def caller() -> None:
            while not stop.is_set():
                result = await ask(manager, [[1, 0, 0, 0]])
                seen.append((result.tool.model_version, result.value["labels"][0]))

        callers = [asyncio.create_task(caller()) for _ in range(2)]
        forward = await models.moves.set_alias("colours", "production", "v2", tenant="default", by="tester")
        after = (await ask(manager, [[1, 0, 0, 0]])).value["labels"]
        back = await models.moves.set_alias("colours", "production", "v1", tenant="default", by="tester")
        stop.set()
        await asyncio.gather(*callers)

    assert (before, after, forward.value.served, back.value.served) == (["red"], ["green"], "v2", "v1")
    assert set(seen) <= {("v1", "red"), ("v2", "green")}


async def test_publishing_again_changes_nothing(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        served = manager.registry.find("colours", caller=NOBODY)
        await publish(models, publisher, "v1", make_linear(), "production")

        assert manager.registry.find("colours", caller=NOBODY) is served
        assert [item.version for item in models.versions("colours", tenant="default")] == ["v1"]


async def test_versions_come_newest_first(publisher: Publisher, make_linear: Callable[..., bytes]) -> None:
    async with agent(publisher) as (_, models):
        for version in ("b", "c", "a"):
            await publish(models, publisher, version, make_linear())

        found = models.versions("colours", tenant="default")
        model = await models.model("colours", tenant="default")

    assert [item.version for item in found] == ["a", "c", "b"]
    assert model.update_time == found[0].create_time


async def test_a_model_belongs_to_its_tenant(publisher: Publisher, make_linear: Callable[..., bytes]) -> None:
    async with agent(publisher) as (manager, models):
        await publish(models, publisher, "v1", make_linear(), "production", tenant="red")
        await publish(models, publisher, "v1", make_linear(shift=1), "production", tenant="blue")

        red = await ask(manager, [[1, 0, 0, 0]], tenant="red")
        blue = await ask(manager, [[1, 0, 0, 0]], tenant="blue")
        with pytest.raises(UnknownTool) as caught:
            await ask(manager, [[1, 0, 0, 0]], tenant="green")
        with pytest.raises(UnknownModel):
            await models.model("colours", tenant="green")

    assert (red.value["labels"], blue.value["labels"]) == (["red"], ["green"])
    assert caught.value.metadata["near"] == ""


async def test_what_was_served_is_served_again_after_a_restart(
    publisher: Publisher, make_linear: Callable[..., bytes]
) -> None:
    async with agent(publisher) as (_, models):
        await publish(models, publisher, "v1", make_linear(), "production")
        await publish(models, publisher, "v2", make_linear(shift=1), "production")
        await publish(models, publisher, "v1", make_linear(), "production", tenant="other")
    # a version that was never published to the agent stays unknown to it
    await publisher.put("v3", make_linear(shift=2))

    async with agent(publisher) as (manager, models):
        again = await ask(manager, [[1, 0, 0, 0]])
        other = await ask(manager, [[1, 0, 0, 0]], tenant="other")
        versions = [item.version for item in models.versions("colours", tenant="default")]

    assert (again.tool.model_version, other.tool.model_version) == ("v2", "v1")
    assert versions == ["v2", "v1"]


async def test_a_store_that_is_away_at_start_is_tried_again(
    publisher: Publisher,
    make_linear: Callable[..., bytes],
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    async with agent(publisher) as (_, models):
        await publish(models, publisher, "v1", make_linear(), "production")
    away = publisher.folder.with_name("away")
    publisher.folder.rename(away)
    publisher.folder.write_text("not a folder")

    async with agent(publisher) as (manager, _):
        assert manager.registry.tools(caller=NOBODY) == []
        publisher.folder.unlink()
        away.rename(publisher.folder)
        await wait_until(lambda: bool(manager.registry.tools(caller=NOBODY)))

        assert (await ask(manager, [[1, 0, 0, 0]])).tool.model_version == "v1"
