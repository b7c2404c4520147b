"""What users read of onnxruntime's errors."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aegis_agent.adapters.models.session import OnnxSession

Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])


def _session(kind: str, other: onnx.TensorProto, *, ir_version: int = 8) -> OnnxSession:
    graph = helper.make_graph([helper.make_node(kind, ["x", other.name], ["y"])], "g", [X], [Y], [other])
    model = helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", 17)])
    data = model.SerializeToString()
    return OnnxSession(data, sha256=hashlib.sha256(data).hexdigest(), threads=1)


def test_a_model_that_cannot_be_loaded_is_told_without_source_files() -> None:
    with pytest.raises(Exception, match=r"^Unsupported model IR version: 99, max supported IR version: \d+$"):
        _session("Add", helper.make_tensor("w", TensorProto.FLOAT, [1], [1]), ir_version=99)


@pytest.mark.parametrize(
    ("kind", "other", "told"),
    [
        # a whole signature and the condition stand before this one, a bare function name before the other
        (
            "Reshape",
            helper.make_tensor("s", TensorProto.INT64, [1], [7]),
            r"^[^/]*Reshape node\. [^/]*Message: The input tensor cannot be reshaped .*\{2,3\}.*\{7\}$",
        ),
        (
            "MatMul",
            helper.make_tensor("w", TensorProto.FLOAT, [4, 1], [1] * 4),
            r"^[^/]*MatMul node\. [^/]*Message: MatMul dimension mismatch$",
        ),
    ],
)
def test_a_run_that_fails_is_told_without_source_files(kind: str, other: onnx.TensorProto, told: str) -> None:
    session = _session(kind, other)

    with pytest.raises(Exception, match=told):
        session.run({"x": np.zeros((2, 3), np.float32)})
