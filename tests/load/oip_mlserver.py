"""The peer's runtime: the same ONNX models in MLServer, written as its documentation says.

Runs in MLServer's own environment, without anything of ours.
"""

from __future__ import annotations

from typing import Any, Final

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

# its names come from an extension module without types
_ORT: Final[Any] = onnxruntime


class OnnxModel(MLModel):  # type: ignore[misc]  # MLServer is not installed where this is checked
    """One session, called inline as MLServer's own runtimes do."""

    async def load(self) -> bool:
        options = _ORT.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = _ORT.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs: dict[str, Any] = {item.name: NumpyCodec.decode_input(item) for item in payload.inputs}
        (output,) = self._session.run(None, inputs)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", output)])
