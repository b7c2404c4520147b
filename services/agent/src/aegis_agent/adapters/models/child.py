"""Inside a child: a model that cannot be stopped otherwise than by killing its process."""

from __future__ import annotations

import time
from typing import Any, Final

from aegis_agent.adapters.models.session import OnnxSession
from aegis_agent.adapters.models.tensors import decode, to_raw


class Served:
    """A session that is called with raw tensors.

    Args:
        model: The model file.
        sha256: Digest that it must have.
        threads: Threads of one inference; 1 and up.
        providers: What may run it, best first.
    """

    about: Final = None

    def __init__(self, *, model: bytes, sha256: str, threads: int, providers: list[str]) -> None:
        self._session = OnnxSession(model, sha256=sha256, threads=threads, providers=providers)
        self._inputs = {item.name: item for item in self._session.signature.inputs}
        self._outputs = self._session.signature.outputs

    def __call__(self, arguments: dict[str, Any]) -> dict[str, Any]:
        feeds = {
            name: decode(self._inputs[name], shape, data)
            for name, (shape, data) in arguments["inputs"].items()
        }
        begin = time.monotonic()
        outputs = self._session.run(feeds)
        seconds = time.monotonic() - begin
        return {
            "seconds": seconds,
            "outputs": {
                spec.name: [list(array.shape), to_raw(spec.datatype, array)]
                for spec, array in zip(self._outputs, outputs, strict=True)
            },
        }
