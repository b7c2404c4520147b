"""Small model bundles with real models, and the images to send to them."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from aegis_common.store.bundle import pack

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
FLOATS = TensorProto.FLOAT
COLOURS: dict[str, Any] = {
    "schema_version": 1,
    "description": "Names the main colour.",
    "task": "image-classification",
    "preprocessing": {"image": {"size": 8}},
    "labels": ["red", "green", "blue"],
}
IRIS: dict[str, Any] = {
    "schema_version": 1,
    "task": "tabular",
    "preprocessing": {
        "tabular": {
            "features": [
                {"name": "length", "mean": 10.0, "std": 2.0, "minimum": 0, "description": "In centimetres."},
                {"name": "kind", "type": "category", "categories": ["a", "b"], "encoding": "one-hot"},
                {"name": "wild", "type": "boolean", "default": False},
            ]
        }
    },
}
SENTIMENT: dict[str, Any] = {
    "schema_version": 1,
    "task": "text-classification",
    "tokenizer": "tokenizer.json",
    "preprocessing": {"text": {"max_length": 16}},
    "labels": ["bad", "good"],
}
EMBEDDING: dict[str, Any] = {
    "schema_version": 1,
    "task": "embedding",
    "tokenizer": "tokenizer.json",
    "preprocessing": {"text": {"max_length": 16}},
    "postprocessing": {"pooling": "mean"},
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "bad", "good", "day", "night"]
RAW: dict[str, Any] = {"schema_version": 1, "task": "raw"}


def bundle(spec: Mapping[str, Any], model: bytes, files: Mapping[str, bytes] = {}, **changes: Any) -> bytes:
    """Return a bundle of *spec* with *changes*."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.yaml").write_text(yaml.safe_dump({**spec, **changes}))
        (folder / "model.onnx").write_bytes(model)
        for file, data in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        return pack(folder)


def tokenizer(*, special: bool = True, pad: bool = False) -> bytes:
    """Return a tokenizer of `WORDS`, with [CLS] and [SEP] around the text if *special*."""
    made = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    if special:
        made.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    if pad:
        made.enable_padding(direction="left", pad_id=0, pad_token="[PAD]", length=4)
    return made.to_str().encode()


def word_model(
    *, vector: bool = False, extra: str = "", length: int | str = "tokens", width: int = 2, layers: int = 0
) -> bytes:
    """Return a model of tokens: one vector a token, or the sum of the vectors of those that count.

    The word bad has the vector (1, 0 ...), and good (0, 1 ...); all else has zeros but day and night, which
    have random ones. With *layers*, each vector goes through as many random matrices.
    """
    random = np.random.default_rng(0)
    table = np.zeros((len(WORDS), width), np.float32)
    table[4, 0] = table[5, 1] = 1
    table[6:] = random.random((2, width)) if layers else 0
    ints, shape = TensorProto.INT64, ["n", length]
    inputs = [("input_ids", ints, shape), ("attention_mask", ints, shape)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["h0"])]
    weights = {"table": table, "last": np.array([-1])}
    for i in range(layers):
        weights[f"w{i}"] = (random.standard_normal((width, width)) * 0.05).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"m{i}"]),
            helper.make_node("Tanh", [f"m{i}"], [f"h{i + 1}"]),
        ]
    nodes += [
        helper.make_node("Cast", ["attention_mask"], ["counts"], to=FLOATS),
        helper.make_node("Unsqueeze", ["counts", "last"], ["column"]),
        helper.make_node("Mul", [f"h{layers}", "column"], ["vectors"]),
    ]
    if vector:
        return model(nodes, inputs, [("vectors", FLOATS, [*shape, width])], weights)
    if extra:
        inputs.append((extra, ints, shape))
        nodes += [
            helper.make_node("Cast", [extra], ["types"], to=FLOATS),
            helper.make_node("Unsqueeze", ["types", "last"], ["second"]),
            helper.make_node("Mul", ["vectors", "second"], ["parts"]),
        ]
    part = "parts" if extra else "vectors"
    weights["one"] = np.array([1])
    nodes.append(helper.make_node("ReduceSum", [part, "one"], ["scores"], keepdims=0))
    return model(nodes, inputs, [("scores", FLOATS, ["n", width])], weights)


def mean_colour(*, size: int | str = 8, layout: str = "NCHW", kind: int = FLOATS) -> bytes:
    """Return a model that gives the mean of each of three channels."""
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    shape = ["n", 3, size, size] if layout == "NCHW" else ["n", size, size, 3]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOATS),
        helper.make_node("ReduceMean", ["floats"], ["scores"], axes=axes, keepdims=0),
    ]
    return model(nodes, [("pixels", kind, shape)], [("scores", FLOATS, ["n", 3])])


def affine(weights: Any, bias: Any = None) -> bytes:
    """Return rows x weights + bias."""
    weights = np.asarray(weights, np.float32)
    bias = np.zeros(weights.shape[1]) if bias is None else bias
    return model(
        [helper.make_node("Gemm", ["rows", "w", "b"], ["out"])],
        [("rows", FLOATS, ["n", weights.shape[0]])],
        [("out", FLOATS, ["n", weights.shape[1]])],
        {"w": weights, "b": np.asarray(bias, np.float32)},
    )


def model(nodes: Any, inputs: Any, outputs: Any, weights: Mapping[str, Any] = {}) -> bytes:
    """Return a model of *nodes*; tensors are name, type and shape."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def picture(colour: Any = RED, size: tuple[int, int] = (16, 12)) -> bytes:
    """Return an image file of one colour."""
    return encoded(Image.new("RGB", size, colour))


@functools.cache
def large_grey() -> bytes:
    """Return a small file of 36 megapixels, which takes a while to decode."""
    return encoded(Image.new("L", (6000, 6000)))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    target = io.BytesIO()
    image.save(target, form)
    return target.getvalue()
