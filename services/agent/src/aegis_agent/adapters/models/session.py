"""One ONNX model in this process: its session, its signature, and runs that can be stopped from outside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import onnxruntime

from aegis_agent.adapters.models.runtime_messages import plain
from aegis_agent.domain.inference import Signature, TensorSpec

# its names come from an extension module without types
_ORT: Final[Any] = onnxruntime
_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
PROVIDERS: Final = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}
"""Names of the bundles' specification to onnxruntime's."""
_SILENT: Final = 4


class Stopper:
    """Stops a run that goes on in another thread, or that has not begun yet."""

    def __init__(self) -> None:
        self.options: Final[Any] = _ORT.RunOptions()
        self.options.log_severity_level = _SILENT

    def stop(self) -> None:
        """Let the run end after the operator that it computes now."""
        self.options.terminate = True


class OnnxSession:
    """A session that is called with arrays.

    Args:
        model: The model file; it may not refer to other files.
        sha256: Digest that it must have.
        threads: Threads of one inference; 1 and up.
        providers: What may run it, best first: keys of `PROVIDERS`.

    Attributes:
        signature: What it takes and gives.
        provider: What runs it.
        threads: Threads of one inference.

    Raises:
        ValueError: The digest is another one, or none of the providers is available here.
        TypeError: An input or output is no tensor of numbers, booleans or texts.
        Exception: onnxruntime cannot load it.
    """

    def __init__(
        self, model: bytes, *, sha256: str, threads: int, providers: Sequence[str] = ("CPU",)
    ) -> None:
        if hashlib.sha256(model).hexdigest() != sha256:
            raise ValueError("the bytes that arrived are not the model's")
        self.threads: Final = threads
        options = _ORT.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        # threads that wait actively burn a processor for nothing
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.provider, self._session = _opened(model, options, providers)
        self.signature: Final = Signature(
            _specs(self._session.get_inputs()), _specs(self._session.get_outputs())
        )
        self._names: Final = [item.name for item in self.signature.outputs]

    def run(self, feeds: Mapping[str, Any], stopper: Stopper | None = None) -> list[Any]:
        """Return every output, in the signature's order; blocks, and lets other threads run meanwhile."""
        options = stopper.options if stopper is not None else None
        try:
            outputs: list[Any] = self._session.run(self._names, feeds, options)
        except Exception as error:
            raise plain(error) from None
        return outputs


def _opened(model: bytes, options: Any, providers: Sequence[str]) -> tuple[str, Any]:
    """Open the model with the first provider that this machine has."""
    present = _ORT.get_available_providers()
    for name in providers:
        if PROVIDERS[name] in present:
            try:
                session = _ORT.InferenceSession(model, sess_options=options, providers=[PROVIDERS[name]])
            except Exception as error:
                raise plain(error) from None
            # onnxruntime falls back by itself where a provider is built in and its device is missing
            if session.get_providers()[0] == PROVIDERS[name]:
                return name, session
    here = ", ".join(name for name, provider in PROVIDERS.items() if provider in present)
    raise ValueError(
        f"it is to be run by {' or '.join(providers)}, and this agent has only {here}; name that among the "
        "providers, or serve it where there is more"
    )


def available(provider: str) -> bool:
    """Return whether this process' onnxruntime has a provider; its device may be missing all the same."""
    return PROVIDERS[provider] in _ORT.get_available_providers()


def _specs(items: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item.name, _datatype(item), _shape(item)) for item in items)


def _datatype(item: Any) -> str:
    if item.type not in _DATATYPES:
        raise TypeError(
            f"{item.name!r} is a {item.type}; only tensors of numbers, booleans and texts can be served"
        )
    return _DATATYPES[item.type]


def _shape(item: Any) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in item.shape)
