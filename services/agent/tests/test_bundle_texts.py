"""Bundles of the tasks text-classification and embedding."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from onnx import TensorProto, helper
from services.agent.tests.model_bundles import Bundles, ask

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.domain.errors import InvalidToolInput, ModelNotLoadable
from aegis_agent.domain.model_tools import runner_of
from aegis_agent.domain.tool import Tool
from aegis_common.store.errors import InvalidModelBundle
from bundle_support import (
    COLOURS,
    EMBEDDING,
    FLOATS,
    RAW,
    SENTIMENT,
    bundle,
    mean_colour,
    model,
    picture,
    tokenizer,
    word_model,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bundles(fork_server: ForkServer) -> AsyncIterator[Bundles]:
    async with Bundles(fork_server) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sentiment(bundles: Bundles) -> Tool:
    return await bundles.load(texts(SENTIMENT, word_model()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedding(bundles: Bundles) -> Tool:
    return await bundles.load(texts(EMBEDDING, word_model(vector=True)))


def texts(spec: dict[str, Any], data: bytes, file: bytes | None = None, **changes: Any) -> bytes:
    return bundle(spec, data, {"tokenizer.json": tokenizer() if file is None else file}, **changes)


def text(**how: Any) -> dict[str, Any]:
    return {"text": {"max_length": 16, **how}}


async def test_a_text_goes_in_and_labels_come_out(sentiment: Tool) -> None:
    answer = await ask(sentiment, text="good day good night bad")

    assert answer == {"labels": [{"label": "good", "score": 2.0}, {"label": "bad", "score": 1.0}]}
    assert sentiment.spec.input_schema["required"] == ["text"]


async def test_scores_are_what_the_activation_makes_of_them(bundles: Bundles) -> None:
    post = {"activation": "softmax", "top_k": 1}
    made = await bundles.load(texts(SENTIMENT, word_model(), postprocessing=post))

    (label,) = (await ask(made, text="bad bad"))["labels"]

    assert (label["label"], label["score"]) == ("bad", pytest.approx(0.8808, abs=1e-4))


async def test_a_pair_of_texts_is_told_apart_by_type_ids(bundles: Bundles) -> None:
    """The model counts in the second text only."""
    made = await bundles.load(
        texts(SENTIMENT, word_model(extra="token_type_ids"), preprocessing=text(pair=True))
    )
    answer = await ask(made, text="bad bad", text_pair="good day", top_k=1)

    assert answer == {"labels": [{"label": "good", "score": 1.0}]}
    with pytest.raises(InvalidToolInput) as caught:
        await ask(made, text="bad")
    assert caught.value.metadata["path"] == "text_pair"


async def test_a_long_text_is_cut_off_or_refused(bundles: Bundles, sentiment: Tool) -> None:
    strict = await bundles.load(texts(SENTIMENT, word_model(), preprocessing=text(truncation=False)))
    long = "bad " * 13 + "good good"

    cut = await ask(sentiment, text=long)
    with pytest.raises(InvalidToolInput) as caught:
        await ask(strict, text=long)

    assert cut["labels"][0] == {"label": "bad", "score": 13.0}
    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == ("text", "maxTokens")
    assert "17 tokens; the model takes 16" in caught.value.message


async def test_a_text_without_tokens_is_refused_where_nothing_stands_around_it(bundles: Bundles) -> None:
    made = await bundles.load(texts(EMBEDDING, word_model(vector=True), tokenizer(special=False)))

    with pytest.raises(InvalidToolInput) as caught:
        await ask(made, texts=["day", " "])
    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == ("texts[1]", "minTokens")


async def test_texts_become_vectors_in_their_order_whatever_their_lengths(embedding: Tool) -> None:
    vectors = (await ask(embedding, texts=["bad good", "good", "day day day bad"]))["vectors"]

    wanted = [[0.25, 0.25], [0, 1 / 3], [1 / 6, 0]]
    assert vectors == [pytest.approx(item, abs=1e-6) for item in wanted]
    assert embedding.spec.output_schema["properties"]["vectors"]["items"]["maxItems"] == 2


@pytest.mark.parametrize(
    ("post", "vector"),
    [
        ({"pooling": "mean", "normalize": True}, [0.8, 0.6]),
        ({"pooling": "cls"}, [1, 0]),
        ({"pooling": "cls", "normalize": True}, [1, 0]),
    ],
)
@pytest.mark.parametrize("padding", ["none", "max_length"])
async def test_tokens_that_pad_count_for_nothing(
    bundles: Bundles, post: dict[str, Any], vector: list[float], padding: str
) -> None:
    file = tokenizer(special=False, pad=True)
    made = await bundles.load(
        texts(
            EMBEDDING,
            word_model(vector=True, length=8 if padding == "max_length" else "tokens"),
            file,
            preprocessing={"text": {"max_length": 8, "padding": padding}},
            postprocessing=post,
        )
    )
    given = "bad bad bad bad good good good"

    assert (await ask(made, texts=[given]))["vectors"] == [pytest.approx(vector, abs=1e-6)]


async def test_an_image_can_be_embedded_too(bundles: Bundles) -> None:
    spec = {**COLOURS, "task": "embedding", "postprocessing": {"normalize": True}}
    del spec["labels"]
    made = await bundles.load(bundle(spec, mean_colour()))

    (vector,) = (await ask(made, image=picture((0, 153, 204))))["vectors"]

    assert vector == pytest.approx([0, 0.6, 0.8])


@pytest.mark.parametrize(
    ("arguments", "path", "rule"),
    [
        ({}, "texts", "required"),
        ({"texts": []}, "texts", "minItems"),
        ({"texts": ["day"] * 65}, "texts", "maxItems"),
        ({"texts": ["day", 1]}, "texts[1]", "type"),
        ({"texts": "day"}, "texts", "type"),
        ({"texts": ["day", "half \ud800"]}, "texts[1]", "utf-8"),
    ],
)
async def test_wrong_texts_name_the_place_and_the_rule(
    embedding: Tool, arguments: dict[str, Any], path: str, rule: str
) -> None:
    with pytest.raises(InvalidToolInput) as caught:
        await ask(embedding, **arguments)

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == (path, rule)


@pytest.mark.parametrize(
    ("changes", "data", "field"),
    [
        ({"preprocessing": text(inputs={"ids": "ids"})}, word_model(), "preprocessing.text.inputs.ids"),
        ({"preprocessing": text(inputs={"mask": "mask"})}, word_model(), "preprocessing.text.inputs"),
        ({}, word_model(extra="position"), "preprocessing.text.inputs"),
        ({}, word_model(length=16), "preprocessing.text.padding"),
        (
            {"preprocessing": text(padding="max_length")},
            word_model(length=8),
            "preprocessing.text.max_length",
        ),
        ({"input": "input_ids"}, word_model(), "input"),
        ({"labels": ["a", "b", "c"]}, word_model(), "labels"),
        ({}, word_model(vector=True), "output"),
    ],
)
async def test_a_spec_that_does_not_fit_its_model_names_the_field(
    bundles: Bundles, changes: dict[str, Any], data: bytes, field: str
) -> None:
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(texts(SENTIMENT, data, **changes))

    assert caught.value.metadata == {"file": "model.yaml", "field": field}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"postprocessing": {}}, "postprocessing.pooling"),
        ({"preprocessing": text(pair=True)}, "preprocessing.text.pair"),
    ],
)
async def test_an_embedding_that_is_none_names_the_field(
    bundles: Bundles, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(texts(EMBEDDING, word_model(vector=True), **changes))

    assert caught.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("file", "how", "told"),
    [
        (b"junk", {}, "Tokenizer from buffer"),
        (tokenizer(), {"max_length": 2}, "no room beside 2 special tokens"),
        (tokenizer(), {"padding": "max_length", "pad_token": "[FILL]"}, "'[FILL]' is no token"),
    ],
)
async def test_a_tokenizer_that_cannot_be_used_is_told(
    bundles: Bundles, file: bytes, how: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelNotLoadable) as caught:
        await bundles.load(texts(SENTIMENT, word_model(), file, preprocessing=text(**how)))

    assert told in caught.value.message


async def test_without_the_package_a_bundle_of_texts_names_the_command_and_others_are_served(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(ModelNotLoadable, match=r"pip install 'aegis-agent\[text\]'"):
        await bundles.load(texts(SENTIMENT, word_model()))
    node = helper.make_node("Identity", ["a"], ["b"])
    await bundles.load(bundle(RAW, model([node], [("a", FLOATS, ["n"])], [("b", FLOATS, ["n"])])))


async def test_the_tokenizer_counts_towards_the_models_memory(bundles: Bundles, sentiment: Tool) -> None:
    runner = runner_of(sentiment)

    assert runner.resident_bytes >= runner.profile.memory_bytes + 3 * len(tokenizer())


async def test_ids_can_be_short_numbers(bundles: Bundles) -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=FLOATS),
        helper.make_node("ReduceMax", ["floats"], ["scores"], axes=[1], keepdims=1),
    ]
    short = model(nodes, [("ids", TensorProto.INT32, ["n", "t"])], [("scores", FLOATS, ["n", 1])])
    made = await bundles.load(texts(SENTIMENT, short, preprocessing=text(inputs={"ids": "ids"})))

    assert (await ask(made, text="night"))["labels"][0] == {"label": "good", "score": 7.0}


async def test_what_a_bundle_brings_leaves_memory_with_the_model(fork_server: ForkServer) -> None:
    marked = tokenizer() + b" " * 100_000
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(texts(SENTIMENT, word_model(), marked))
        loaded = _holders(marked)
        runner_of(tool).unload()
        await bundles.loader._residency.settled()
        unloaded = _holders(marked)
        answer = await ask(tool, text="bad", top_k=1)

    assert (loaded, unloaded) == (1, 0)
    assert answer["labels"][0]["label"] == "bad"


def _holders(data: bytes) -> int:
    """Return how many objects hold a copy of *data*, beside the one that is given."""
    gc.collect()
    found = 0
    for item in gc.get_objects():
        # Not isinstance: some objects of other libraries warn when they are asked for their class.
        values = item.values() if type(item) is dict else ()
        found += any(type(value) is bytes and value is not data and value == data for value in values)
    return found
