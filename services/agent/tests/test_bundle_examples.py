"""Examples of bundles: run at every load; ready means that they passed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from services.agent.tests.model_bundles import Bundles, ask, put, version_of
from services.agent.tests.model_publisher import Publisher, agent

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.models.examples import difference
from aegis_agent.domain.errors import ModelNotLoadable, UnknownModel
from aegis_agent.domain.model_errors import ModelExampleFailed
from aegis_common.store.errors import InvalidModelBundle
from bundle_support import BLUE, COLOURS, IRIS, RAW, RED, affine, bundle, mean_colour, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bundles(fork_server: ForkServer) -> AsyncIterator[Bundles]:
    async with Bundles(fork_server) as made:
        yield made


def colours(label: str, **example: Any) -> bytes:
    """Return a bundle whose example is a red image that is expected to get *label*."""
    item = {"input": {"image": {"file": "a.png"}}, "output": {"labels": [{"label": label}]}, **example}
    return bundle(COLOURS, mean_colour(), {"a.png": picture(RED)}, examples=[item])


async def test_a_model_that_answers_its_example_is_ready(bundles: Bundles) -> None:
    made = await bundles.load(colours("red"))

    assert (await ask(made, image=picture(BLUE), top_k=1))["labels"][0]["label"] == "blue"


async def test_another_answer_names_the_field_what_was_expected_and_what_came(bundles: Bundles) -> None:
    with pytest.raises(ModelExampleFailed) as caught:
        await bundles.load(colours("green", name="a leaf"))

    assert caught.value.reason == "MODEL_EXAMPLE_FAILED"
    assert caught.value.metadata == {
        "model": "m",
        "version": "v1",
        "example": "examples[0] (a leaf)",
        "field": "output.labels[0].label",
        "expected": "'green'",
        "got": "'red'",
        "tolerance": "0.0001",
    }


async def test_a_number_may_differ_by_the_tolerance(bundles: Bundles) -> None:
    example = {"input": {"rows": [{"x": 2}]}, "output": {"rows": [{"values": [2.05]}]}}
    spec = {**IRIS, "preprocessing": {"tabular": {"features": [{"name": "x"}]}}}

    await bundles.load(bundle(spec, affine([[1]]), examples=[{**example, "tolerance": 0.1}]))
    with pytest.raises(ModelExampleFailed, match=r"rows\[0\]\.values\[0\]: expected 2\.05, got 2\.0 "):
        await bundles.load(bundle(spec, affine([[1]]), examples=[{**example, "tolerance": 0.01}]))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rows": [{"x": "two"}]}, "input.rows[0].x"),
        ({}, "input.rows"),
        ({"rows": [{"x": 3e38}]}, "output"),
    ],
)
async def test_an_example_that_cannot_be_answered_says_why(
    bundles: Bundles, given: dict[str, Any], field: str
) -> None:
    spec = {**IRIS, "preprocessing": {"tabular": {"features": [{"name": "x"}]}}}
    with pytest.raises(ModelExampleFailed) as caught:
        await bundles.load(bundle(spec, affine([[10]]), examples=[{"input": given, "output": {}}]))

    assert caught.value.metadata["field"] == field


async def test_files_hold_values_too_large_for_the_specification(bundles: Bundles) -> None:
    rows = np.arange(12).reshape(4, 3).tolist()
    files = {"in.json": json.dumps(rows).encode(), "out.json": json.dumps(rows).encode()}
    example = {"input": {"rows": {"file": "in.json"}}, "output": {"out": {"file": "out.json"}}}

    await bundles.load(bundle(RAW, affine(np.eye(3)), files, examples=[example]))
    with pytest.raises(ModelExampleFailed):
        await bundles.load(bundle(RAW, affine(2 * np.eye(3)), files, examples=[example]))
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(
            bundle(RAW, affine(np.eye(3)), {**files, "in.json": b"[" * 99_999}, examples=[example])
        )

    assert caught.value.metadata["file"] == "in.json"


@pytest.mark.parametrize(
    ("expected", "got", "field"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, None),
        ([1], [1, 2], None),
        ([1, 2], [1], "output[1]"),
        ({"a": {"b": [0, {"c": 1}]}}, {"a": {"b": [0, {"c": 1.2}]}}, "output.a.b[1].c"),
        ({"a": 1}, {}, "output.a"),
        ({"a": 1}, [1], "output"),
        (1, True, "output"),
        (True, True, None),
        ("a", "A", "output"),
        (float("nan"), 1, "output"),
        (None, None, None),
    ],
)
async def test_an_answer_may_say_more_than_is_expected_but_nothing_else(
    expected: Any, got: Any, field: str | None
) -> None:
    found = difference(expected, got, 0.1)

    assert (found and found.field) == field


async def test_a_version_whose_example_fails_is_not_published(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    async with agent(publisher) as (manager, models):
        with pytest.raises(ModelExampleFailed):
            await put(models, publisher, "v1", colours("green"))
        with pytest.raises(UnknownModel):
            models.versions("colours", tenant="default")

        await put(models, publisher, "v2", colours("red"), "production")
        with pytest.raises(ModelExampleFailed):
            await put(models, publisher, "v3", colours("blue"), "production")
        answer = await manager.dispatch("colours", {"image": picture(BLUE), "top_k": 1})

    assert answer["labels"][0]["label"] == "blue"


async def test_verifying_loads_afresh_and_leaves_nothing_behind(bundles: Bundles) -> None:
    held = bundles.loader._residency.held_bytes
    for data in (colours("red"), bundle(RAW, affine(np.eye(2)))):
        await bundles.loader.verify(version_of(data), data)
    bad = colours("green")
    with pytest.raises(ModelExampleFailed):
        await bundles.loader.verify(version_of(bad), bad)
    await bundles.loader._residency.settled()

    assert bundles.loader._residency.held_bytes == held


async def test_a_bundle_that_is_none_is_refused(bundles: Bundles) -> None:
    with pytest.raises(InvalidModelBundle, match="no zip file"):
        await bundles.load(b"junk")
    with pytest.raises(ModelNotLoadable):
        await bundles.load(bundle(COLOURS, b"junk"))
