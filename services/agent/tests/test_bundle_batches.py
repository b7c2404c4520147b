"""A typed call's answer is the same, bit for bit, alone and among others that share its run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from services.agent.tests.model_bundles import Bundles, ask

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.models.runner import OnnxRunner
from aegis_agent.domain.inference import Strategy
from aegis_agent.domain.tool import Tool
from bundle_support import (
    COLOURS,
    EMBEDDING,
    FLOATS,
    IRIS,
    WORDS,
    bundle,
    mean_colour,
    model,
    picture,
    tokenizer,
    word_model,
)

WIDTH = 192
Made = Callable[[bytes], Tool]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def batched(loop: asyncio.Runner) -> Iterator[Made]:
    """Loads bundles that are run in batches, whatever this machine measures."""
    server = ForkServer(["aegis_agent.adapters.children.child"])
    bundles = Bundles(server)

    async def load(data: bytes) -> Tool:
        tool = await bundles.load(data)
        runner = tool.runner
        assert isinstance(runner, OnnxRunner)
        assert runner.profile.rows
        runner.unload()
        await bundles.loader._residency.settled()
        runner.profile = replace(
            runner.profile, strategy=Strategy.BATCH, inline_elements=0, piece_rows=32, rows=True
        )
        return tool

    yield lambda data: loop.run(load(data))
    loop.run(bundles.loader.close())
    loop.run(server.close())


async def alone_and_together(tool: Tool, calls: list[dict[str, Any]]) -> tuple[list[Any], list[Any], int]:
    """Return the answers one by one, all at once, and the most rows that a run had then."""
    alone = [await ask(tool, **call) for call in calls]
    together = await asyncio.gather(*(ask(tool, **call) for call in calls))
    runner = tool.runner
    assert isinstance(runner, OnnxRunner)
    return alone, together, max(runner.statistics.batches)


SETTINGS = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXTS = st.lists(st.lists(st.sampled_from(WORDS[4:]), max_size=20).map(" ".join), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def embedding(batched: Made) -> Tool:
    data = word_model(vector=True, width=WIDTH, layers=6)
    return batched(bundle(EMBEDDING, data, {"tokenizer.json": tokenizer()}))


@SETTINGS
@given(calls=st.lists(TEXTS, min_size=2, max_size=8))
def test_texts_of_any_lengths_have_the_vectors_that_they_have_alone(
    loop: asyncio.Runner, embedding: Tool, calls: list[list[str]]
) -> None:
    given_ = [{"texts": texts} for texts in calls]
    alone, together, _ = loop.run(alone_and_together(embedding, given_))

    assert alone == together


def test_texts_of_one_length_share_a_run(loop: asyncio.Runner, embedding: Tool) -> None:
    """Else the property above would say nothing."""
    calls = [{"texts": [f"good {word}"] * 8} for word in ("day", "night", "bad")]
    alone, together, most = loop.run(alone_and_together(embedding, calls))

    assert alone == together
    assert most > 8


def deep_rows() -> bytes:
    random = np.random.default_rng(1)
    sizes = [4, WIDTH, WIDTH, 3]
    nodes, weights, last = [], {}, "rows"
    for i in range(3):
        weights[f"w{i}"] = (random.standard_normal((sizes[i], sizes[i + 1])) * 0.1).astype(np.float32)
        nodes += [helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"])]
        nodes += [helper.make_node("Tanh", [f"m{i}"], [f"h{i}"])]
        last = f"h{i}"
    return model(nodes, [("rows", FLOATS, ["n", 4])], [(last, FLOATS, ["n", 3])], weights)


@pytest.fixture(scope="module")
def rows(batched: Made) -> Tool:
    post = {"activation": "softmax"}
    return batched(bundle(IRIS, deep_rows(), labels=["x", "y", "z"], postprocessing=post))


ROW = st.fixed_dictionaries(
    {"length": st.floats(0, 100), "kind": st.sampled_from("ab"), "wild": st.booleans()}
)


@SETTINGS
@given(calls=st.lists(st.lists(ROW, min_size=1, max_size=40), min_size=2, max_size=6))
def test_rows_have_the_labels_and_scores_that_they_have_alone(
    loop: asyncio.Runner, rows: Tool, calls: list[list[dict[str, Any]]]
) -> None:
    alone, together, _ = loop.run(alone_and_together(rows, [{"rows": call} for call in calls]))
    one_by_one = [[loop.run(ask(rows, rows=[row]))["rows"][0] for row in call[:3]] for call in calls]

    assert alone == together
    assert [answer["rows"][:3] for answer in alone] == one_by_one


def test_images_share_a_run_and_keep_their_labels(loop: asyncio.Runner, batched: Made) -> None:
    tool = batched(bundle(COLOURS, mean_colour()))
    colours = [(i * 37 % 256, i * 91 % 256, i * 13 % 256) for i in range(24)]
    alone, together, _ = loop.run(alone_and_together(tool, [{"image": picture(item)} for item in colours]))

    assert alone == together
