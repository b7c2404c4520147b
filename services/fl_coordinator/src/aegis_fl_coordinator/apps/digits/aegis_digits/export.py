"""The trained network as an ONNX file, checked against torch before it leaves."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from aegis_digits.task import CLASSES, HELD_OUT, INPUTS, Network, held_out

_OPSET: Final = 17
_IR_VERSION: Final = 9


def to_onnx(network: Network) -> bytes:
    """Return the network as ONNX: `input` [N, 64] in 0..1 to `logits` [N, 10]."""
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    nodes = [
        helper.make_node("Gemm", ["input", "hidden.weight", "hidden.bias"], ["before"], transB=1),
        helper.make_node("Relu", ["before"], ["after"]),
        helper.make_node("Gemm", ["after", "output.weight", "output.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="aegis-digits",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    _check_against_torch(model, network)
    return model.SerializeToString()


@torch.no_grad()
def _check_against_torch(model: onnx.ModelProto, network: Network) -> None:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # needed once, at the end

    images, _ = held_out()
    (found,) = ReferenceEvaluator(model).run(None, {"input": images.numpy()})
    difference = float(np.abs(np.asarray(found) - network(images).numpy()).max())
    if difference > 1e-3:
        raise RuntimeError(f"the ONNX model differs from the trained one by {difference:g}")


def describe() -> dict[str, Any]:
    """Return what a user of the model has to know."""
    return {
        "task": "classification",
        "domain": "8x8 grey images of single handwritten digits, 0 (background) to 1 (ink), row by row",
        "labels": [str(digit) for digit in range(CLASSES)],
        "dataset": "scikit-learn digits (UCI optical recognition of handwritten digits, test part)",
        "held_out": {
            "rule": "first `count` of numpy.random.default_rng(0).permutation(1797), in load_digits()",
            "count": HELD_OUT,
        },
    }
