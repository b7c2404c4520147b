"""Small ONNX models, and messages of package `inference`, for tests and benches of the inference protocol."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aegis.agent.v1 import model_service_pb2, model_service_pb2_grpc
from aegis_agent.adapters.oip import messages
from aegis_common.store.models import ModelStore

SERVICE = messages.SERVICE


def identity(kind: int, shape: Sequence[int | str]) -> bytes:
    """Return a model that gives back what it gets."""
    nodes = [helper.make_node("Identity", ["input"], ["output"])]
    return _model(nodes, [("input", kind, shape)], [("output", kind, shape)])


def dense(sizes: Sequence[int], *, seed: int = 0) -> bytes:
    """Return a perceptron of these layer sizes; rows are independent."""
    random = np.random.default_rng(seed)
    nodes, weights, last = [], [], "input"
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        final = i == len(sizes) - 2
        weights += [
            numpy_helper.from_array((random.standard_normal(shape) * 0.05).astype(np.float32), name)
            for name, shape in ((f"w{i}", (rows, columns)), (f"b{i}", (columns,)))
        ]
        out = "output" if final else f"g{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [out]))
        last = out
        if not final:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
            last = f"r{i}"
    floats = TensorProto.FLOAT
    return _model(
        nodes, [("input", floats, ["n", sizes[0]])], [("output", floats, ["n", sizes[-1]])], weights
    )


def convolution() -> bytes:
    """Return three convolutions on 3 x 32 x 32."""
    random = np.random.default_rng(0)
    channels = [3, 16, 32, 64]
    nodes, weights, last = [], [], "input"

    def weight(name: str, *shape: int) -> None:
        values = (random.standard_normal(shape) * 0.05).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))

    for i in range(3):
        weight(f"w{i}", channels[i + 1], channels[i], 3, 3)
        weight(f"b{i}", channels[i + 1])
        nodes.append(
            helper.make_node(
                "Conv",
                [last, f"w{i}", f"b{i}"],
                [f"c{i}"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[2, 2],
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    weight("wf", 64, 10)
    weight("bf", 10)
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "wf", "bf"], ["output"]),
    ]
    floats = TensorProto.FLOAT
    return _model(nodes, [("input", floats, ["n", 3, 32, 32])], [("output", floats, ["n", 10])], weights)


def scores(shift: int = 0) -> bytes:
    """Return scores = input x W of 4 features and 3 classes; feature i speaks for class (i + shift) mod 3."""
    weights = np.zeros((4, 3), dtype=np.float32)
    for i in range(4):
        weights[i, (i + shift) % 3] = 1
    return _model(
        [helper.make_node("MatMul", ["input", "w"], ["scores"])],
        [("input", TensorProto.FLOAT, ["n", 4])],
        [("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )


async def publish(
    channel: Any,
    store: ModelStore,
    model: str,
    data: bytes,
    *,
    version: str = "v1",
    alias: str = "production",
    kind: str = "onnx",
) -> None:
    """Put a version into the store and tell the agent of it."""
    labels = {"labels": ["red", "green", "blue"]}
    manifest = await store.publish("default", model, version, data, format=kind, provenance=labels)
    await model_service_pb2_grpc.ModelServiceStub(channel).PublishModelVersion(
        model_service_pb2.PublishModelVersionRequest(
            parent=f"models/{model}", version=version, sha256=manifest.sha256, aliases=[alias]
        )
    )


def centred() -> bytes:
    """Return a slow model whose rows depend on each other: it takes the mean row away, many times over."""
    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["input", "mean"], ["output"]),
    ]
    return _model(nodes, [("input", floats, ["n", 4])], [("output", floats, ["n", 4])])


def added() -> bytes:
    """Return a model that adds `a` and `b`, which fails where their numbers of rows differ."""
    floats = TensorProto.FLOAT
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    return _model(nodes, [(name, floats, [f"n{name}", 2]) for name in "ab"], [("sum", floats, ["n", 2])])


def endless() -> bytes:
    """Return a model that adds 1 as often as its input says: nothing tells how long it takes."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]),
        ],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    weights = [
        numpy_helper.from_array(np.array(True), "always"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    nodes = [helper.make_node("Loop", ["times", "always", "zero"], ["output"], body=body)]
    return _model(nodes, [("times", TensorProto.INT64, [])], [("output", TensorProto.FLOAT, [1])], weights)


def slow(repeats: int = 1500, size: int = 96) -> bytes:
    """Return a model of fixed shape that takes long, in many short steps."""
    weight = (np.eye(size) + 1e-4).astype(np.float32) / (1 + size * 1e-4)
    nodes, last = [], "input"
    for i in range(repeats):
        out = "output" if i == repeats - 1 else f"m{i}"
        nodes.append(helper.make_node("MatMul", [last, "w"], [out]))
        last = out
    floats, shape = TensorProto.FLOAT, [256, size]
    return _model(
        nodes, [("input", floats, shape)], [("output", floats, shape)], [numpy_helper.from_array(weight, "w")]
    )


def stubborn(size: int = 300, kernel: int = 101) -> bytes:
    """Return a model of fixed shape that takes long in one single step, so that it cannot be stopped."""
    floats, out = TensorProto.FLOAT, size - kernel + 1
    node = helper.make_node("AveragePool", ["input"], ["output"], kernel_shape=[kernel, kernel])
    return _model([node], [("input", floats, [1, 1, size, size])], [("output", floats, [1, 1, out, out])])


def infer_request(model: str, name: str, array: Any, datatype: str, **fields: Any) -> Any:
    """Return a ModelInferRequest with one raw input."""
    request = messages.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def _model(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    weights: Sequence[Any] = (),
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
