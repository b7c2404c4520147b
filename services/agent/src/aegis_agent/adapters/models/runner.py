"""Runs one version of a model: as a tool, on nested lists, and for the inference protocol, on raw tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.tensors import DTYPES, TensorError, from_nested
from aegis_agent.domain.call import Arguments, Call
from aegis_agent.domain.errors import InvalidToolInput, ToolFailed, ToolOutputTooLarge
from aegis_agent.domain.inference import LoadedModel, Profile, Run, Signature, Tensors
from aegis_agent.domain.model_errors import ModelUnloaded
from aegis_agent.domain.offload import LARGE, offloaded
from aegis_agent.domain.residency import Residency, Slot
from aegis_agent.domain.statistics import Statistics
from aegis_common.clock import Clock, utc_now

Open = Callable[[bytes | None], Awaitable[LoadedModel]]
"""Brings the version into memory, from the bytes of its file or, without them, from the store."""


class OnnxRunner:
    """A `ModelRunner` of the domain.

    Args:
        name: Name of the model.
        signature: What it takes and gives.
        profile: How it is run.
        labels: Names of its classes, in order, or none.
        residency: Where it is held in memory.
        load: Brings it there.
        output_bytes: Most bytes of all outputs of one inference.
        clock: Present time, for the statistics.
    """

    def __init__(
        self,
        name: str,
        signature: Signature,
        profile: Profile,
        *,
        labels: Sequence[str],
        residency: Residency,
        load: Open,
        output_bytes: int,
        clock: Clock = utc_now,
    ) -> None:
        self._name = name
        self.labels: Final = tuple(labels)
        self._residency = residency
        self._open = load
        self._output_bytes = output_bytes
        self._clock = clock
        self._slot = Slot(name, profile.memory_bytes, self._load)
        self._data: bytes | None = None
        self.signature: Final = signature
        self.profile = profile
        self.statistics: Final = Statistics()
        self.serving = False
        self.available = True

    @property
    def labelled(self) -> bool:
        """Whether the only output is scores by class, so that the best class can be named."""
        return is_labelled(self.signature)

    @property
    def resident_bytes(self) -> int:
        return 0 if self._slot.loaded is None else self._slot.loaded.memory_bytes

    @property
    def loading(self) -> bool:
        return self._slot.loading is not None

    async def load(self, data: bytes | None = None) -> None:
        self._data = data
        try:
            async with self._residency.use(self._slot):
                pass
        finally:
            self._data = None

    def unload(self) -> None:
        self._residency.drop(self._slot)

    async def run(self, call: Call) -> Any:
        """Run the model on nested lists by input name; return nested lists by output name."""
        arrived = asyncio.get_running_loop().time()
        await asyncio.sleep(0)  # one caller in a loop must not keep the event loop to itself
        inputs = await offloaded(self._read, call.arguments)
        run = await self.infer(inputs, arrived=arrived, deadline=call.deadline, start_by=call.deadline)
        if sum(array.size for array in run.outputs.values()) > LARGE:
            return await asyncio.to_thread(self._write, run.outputs)
        return self._write(run.outputs)

    async def infer(self, inputs: Tensors, *, arrived: float, deadline: float, start_by: float) -> Run:
        loop = asyncio.get_running_loop()
        if not self.available:
            raise ModelUnloaded.named(self._name)
        try:
            async with self._residency.use(self._slot) as model:
                waited = loop.time() - arrived
                run = await model.run(inputs, deadline=deadline, start_by=start_by)
            self._check_size(run.outputs)
        except BaseException:
            self.statistics.fail.add(loop.time() - arrived)
            raise
        self.statistics.success.add(loop.time() - arrived)
        self.statistics.ran(
            rows=run.rows,
            batch_rows=run.batch_rows,
            queue_s=waited + run.queue_s,
            compute_s=run.compute_s,
            now_ms=int(self._clock().timestamp() * 1000),
        )
        return run

    async def close(self) -> None:
        """Free its memory, unless it still answers under its model's name."""
        if not self.serving:
            self.unload()

    async def _load(self) -> LoadedModel:
        return await self._open(self._data)

    def _read(self, arguments: Arguments) -> Tensors:
        try:
            return {spec.name: from_nested(spec, arguments[spec.name]) for spec in self.signature.inputs}
        except TensorError as error:
            raise InvalidToolInput.of(self._name, [error.violation]) from error

    def _write(self, outputs: Tensors) -> dict[str, Any]:
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ToolFailed(
                    f"tool {self._name!r} failed: ArithmeticError: output {name!r} holds NaN or infinity, "
                    "which JSON cannot carry",
                    tool=self._name,
                    error="ArithmeticError",
                )
        result: dict[str, Any] = {name: array.tolist() for name, array in outputs.items()}
        if self.labelled:
            scores = outputs[self.signature.outputs[0].name]
            classes = np.argmax(scores, axis=1).tolist()
            result["labels"] = [self.labels[i] if i < len(self.labels) else i for i in classes]
        return result

    def _check_size(self, outputs: Tensors) -> None:
        size = sum(array.nbytes for array in outputs.values())
        if size > self._output_bytes:
            raise ToolOutputTooLarge.of(self._name, size_bytes=size, max_bytes=self._output_bytes)


def is_labelled(signature: Signature) -> bool:
    """Return whether the only output is scores by class: n x classes, more than one class."""
    if len(signature.outputs) != 1 or signature.outputs[0].name == "labels":
        return False
    spec = signature.outputs[0]
    return DTYPES[spec.datatype].kind == "f" and len(spec.shape) == 2 and spec.shape[1] != 1
