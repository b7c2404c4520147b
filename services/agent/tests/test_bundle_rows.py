"""Bundles of the tasks tabular and raw."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper
from services.agent.tests.model_bundles import Bundles, ask

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.domain.errors import InvalidToolInput, ToolFailed
from aegis_agent.domain.tool import Tool
from aegis_common.store.errors import InvalidModelBundle
from bundle_support import FLOATS, IRIS, RAW, affine, bundle, model

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROW = {"length": 14.0, "kind": "b", "wild": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bundles(fork_server: ForkServer) -> AsyncIterator[Bundles]:
    async with Bundles(fork_server) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def same(bundles: Bundles) -> Tool:
    """A model that gives back its row."""
    return await bundles.load(bundle(IRIS, affine(np.eye(4))))


def features(*items: dict[str, Any]) -> dict[str, Any]:
    return {"tabular": {"features": list(items)}}


async def test_named_features_become_the_numbers_that_the_model_takes(same: Tool) -> None:
    answer = await ask(same, rows=[ROW, {"length": 8, "kind": "a"}])

    assert answer == {"rows": [{"values": [2, 0, 1, 1]}, {"values": [-1, 1, 0, 0]}]}


async def test_the_schema_names_every_feature_with_its_bounds(same: Tool) -> None:
    row = same.spec.input_schema["properties"]["rows"]["items"]

    assert row["required"] == ["length", "kind"]
    assert row["properties"] == {
        "length": {"type": "number", "minimum": 0, "description": "In centimetres."},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "wild": {"type": "boolean", "default": False},
    }


@pytest.mark.parametrize(
    ("rows", "path", "rule"),
    [
        ([], "rows", "minItems"),
        ([ROW, {"kind": "a"}], "rows[1].length", "required"),
        ([ROW | {"width": 1}], "rows[0].width", "additionalProperties"),
        ([ROW | {"length": "long"}], "rows[0].length", "type"),
        ([ROW | {"length": -1}], "rows[0].length", "minimum"),
        ([ROW | {"length": 1e300}], "rows[0].length", "range"),
        ([ROW | {"length": 10**400}], "rows[0].length", "range"),
        ([ROW | {"kind": "c"}], "rows[0].kind", "enum"),
        ([ROW | {"wild": 1}], "rows[0].wild", "type"),
        ([[14, "b", True]], "rows[0]", "type"),
        (ROW, "rows", "type"),
    ],
)
async def test_a_wrong_row_names_the_place_and_the_rule(same: Tool, rows: Any, path: str, rule: str) -> None:
    with pytest.raises(InvalidToolInput) as caught:
        await ask(same, rows=rows)

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == (path, rule)


async def test_rows_get_labels_where_the_bundle_has_them(bundles: Bundles) -> None:
    post = {"activation": "softmax", "top_k": 1}
    made = await bundles.load(
        bundle(IRIS, affine(np.eye(4)[:, :3] * 100), labels=["x", "y", "z"], postprocessing=post)
    )
    rows = (await ask(made, rows=[ROW, {"length": 10, "kind": "a"}]))["rows"]

    assert [[item["label"] for item in row["labels"]] for row in rows] == [["x"], ["y"]]
    assert rows[0]["labels"][0]["score"] == pytest.approx(1)


async def test_one_score_of_two_labels_speaks_for_the_second(bundles: Bundles) -> None:
    made = await bundles.load(
        bundle(
            IRIS,
            affine(np.zeros((4, 1)), [np.log(3)]),
            labels=["no", "yes"],
            postprocessing={"activation": "sigmoid"},
        )
    )
    (row,) = (await ask(made, rows=[ROW]))["rows"]

    assert [item["label"] for item in row["labels"]] == ["yes", "no"]
    assert [item["score"] for item in row["labels"]] == pytest.approx([0.75, 0.25])


async def test_scores_without_labels_are_the_models_failure(bundles: Bundles) -> None:
    """The model does not say beforehand how many classes it has."""
    node = helper.make_node("Identity", ["rows"], ["out"])
    wide = model([node], [("rows", FLOATS, ["n", "c"])], [("out", FLOATS, ["n", "c"])])
    made = await bundles.load(bundle(IRIS, wide, labels=["x", "y", "z"]))

    with pytest.raises(ToolFailed, match="4 scores came for 3 labels"):
        await ask(made, rows=[ROW])


def by_name() -> bytes:
    """Return a model of one input per feature that gives a class number and a text."""
    ints = TensorProto.INT64
    nodes = [helper.make_node("Add", ["a", "b"], ["class"]), helper.make_node("Identity", ["word"], ["name"])]
    return model(
        nodes,
        [("a", ints, ["n", 1]), ("b", ints, ["n", 1]), ("word", TensorProto.STRING, ["n", 1])],
        [("class", ints, ["n", 1]), ("name", TensorProto.STRING, ["n", 1])],
    )


BY_NAME = features(
    {"name": "word", "type": "text"},
    {"name": "a", "type": "integer"},
    {"name": "b", "type": "category", "categories": ["zero", "one"]},
)


@pytest.mark.parametrize(("output", "label"), [("class", "second"), ("name", "hello")])
async def test_each_feature_can_have_an_input_of_its_own(bundles: Bundles, output: str, label: str) -> None:
    made = await bundles.load(
        bundle(IRIS, by_name(), preprocessing=BY_NAME, output=output, labels=["first", "second", "third"])
    )
    row = {"word": "hello", "a": 0, "b": "one"}

    assert await ask(made, rows=[row]) == {"rows": [{"labels": [{"label": label}]}]}
    assert "top_k" not in made.spec.input_schema["properties"]
    if output == "class":
        with pytest.raises(ToolFailed, match="class 5"):
            await ask(made, rows=[row | {"a": 4}])
        with pytest.raises(InvalidToolInput, match="INT64"):
            await ask(made, rows=[row | {"a": 2**70}])
        with pytest.raises(InvalidToolInput, match="does not fit BYTES"):
            await ask(made, rows=[row | {"word": "half \ud800"}])


async def test_rows_that_depend_on_each_other_are_run_one_by_one(bundles: Bundles) -> None:
    """The model takes the mean of all its rows away, of which there is one at a time."""
    nodes = [
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["rows", "mean"], ["out"]),
    ]
    centred = model(nodes, [("rows", FLOATS, ["n", 1])], [("out", FLOATS, ["n", 1])])
    made = await bundles.load(bundle(IRIS, centred, preprocessing=features({"name": "x"})))

    assert await ask(made, rows=[{"x": 1}, {"x": 5}]) == {"rows": [{"values": [0]}, {"values": [0]}]}


async def test_a_fixed_number_of_rows_is_no_obstacle(bundles: Bundles) -> None:
    shape = [1, 1]
    node = helper.make_node("Identity", ["rows"], ["out"])
    single = model([node], [("rows", FLOATS, shape)], [("out", FLOATS, shape)])
    made = await bundles.load(bundle(IRIS, single, preprocessing=features({"name": "x"})))

    assert await ask(made, rows=[{"x": 1}, {"x": 5}]) == {"rows": [{"values": [1]}, {"values": [5]}]}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preprocessing": features({"name": "x"})}, "preprocessing.tabular.features"),
        ({"preprocessing": features({"name": "x", "type": "text"})}, "preprocessing.tabular.features"),
        ({"labels": ["a", "b"]}, "labels"),
        ({"input": "columns"}, "input"),
        ({"postprocessing": {"activation": "sigmoid"}}, "postprocessing.activation"),
        ({"postprocessing": {"normalize": True}}, "postprocessing.normalize"),
    ],
)
async def test_a_spec_that_does_not_fit_its_model_names_the_field(
    bundles: Bundles, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(bundle(IRIS, affine(np.eye(4)), **changes))

    assert caught.value.metadata == {"file": "model.yaml", "field": field}


async def test_a_raw_bundle_takes_and_gives_the_models_tensors(bundles: Bundles) -> None:
    made = await bundles.load(bundle(RAW, affine(np.eye(3)), labels=["x", "y", "z"], domain="tests"))

    assert await ask(made, rows=[[1, 2, 0]]) == {"out": [[1, 2, 0]], "labels": ["y"]}
    assert made.warnings == ("domain of the model: tests",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": "rows"}, "input"),
        ({"output": "out"}, "output"),
        ({"postprocessing": {"activation": "softmax"}}, "postprocessing.activation"),
    ],
)
async def test_what_would_say_nothing_for_raw_tensors_is_refused(
    bundles: Bundles, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(bundle(RAW, affine(np.eye(3)), **changes))

    assert caught.value.metadata["field"] == field
