"""Runs one version of a model: as a tool, in its form, and for the inference protocol, on raw tensors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from aegis_agent.adapters.models.bundled import prepared
from aegis_agent.adapters.models.forms.form import Form, Item
from aegis_agent.adapters.models.onnx_models import is_quick
from aegis_agent.domain.call import Call
from aegis_agent.domain.errors import ToolOutputTooLarge
from aegis_agent.domain.inference import LoadedModel, Profile, Run, Signature, Tensors
from aegis_agent.domain.model_errors import ModelUnloaded
from aegis_agent.domain.offload import LARGE
from aegis_agent.domain.residency import Residency, Slot
from aegis_agent.domain.statistics import Statistics
from aegis_agent.domain.usage import Stepped
from aegis_common.clock import Clock, utc_now

Open = Callable[[bytes | None], Awaitable[LoadedModel]]
"""Brings the version into memory, from the bytes of its file or, without them, from the store."""


class OnnxRunner:
    """A `ModelRunner` of the domain.

    Args:
        name: Name of the model.
        signature: What it takes and gives.
        profile: How it is run.
        form: What its tool takes and gives.
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
        form: Form,
        residency: Residency,
        load: Open,
        output_bytes: int,
        clock: Clock = utc_now,
    ) -> None:
        self._name = name
        self._form: Final = form
        self.labels: Final = form.labels
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
        """Run the model on a tool's arguments; return what the tool answers."""
        await asyncio.sleep(0)  # one caller in a loop must not keep the event loop to itself
        loop, form = asyncio.get_running_loop(), self._form
        self._check_available()
        async with self._residency.use(self._slot) as model:
            begun = loop.time()
            reading = form.reader.read(
                call.arguments, lambda given: prepared(model, replace(call, arguments=given))
            )
            items = await Stepped(reading, call.spent)
            self.statistics.compute_input.add(loop.time() - begun)
            outputs = await self._outputs(items, call)
        if sum(array.size for arrays in outputs for array in arrays.values()) > LARGE:
            return await asyncio.to_thread(self._written, call, items, outputs)
        return self._written(call, items, outputs)

    def _written(self, call: Call, items: Sequence[Item], outputs: Sequence[Tensors]) -> Any:
        begun = time.thread_time()
        answer = self._form.writer.write(call.arguments, items, outputs)
        call.spent.add(time.thread_time() - begun)
        return answer

    async def _outputs(self, items: Sequence[Item], call: Call) -> list[Tensors]:
        """Run all items at once; a model that is run in batches may take several in one."""
        arrived, deadline = asyncio.get_running_loop().time(), call.deadline

        async def one(item: Item) -> Tensors:
            try:
                run = await self._infer(item.feeds, arrived=arrived, deadline=deadline, start_by=deadline)
            except BaseException:
                self.statistics.fail.add(asyncio.get_running_loop().time() - arrived)
                raise
            call.spent.add(run.cpu_s)
            return run.outputs

        if len(items) == 1:
            return [await one(items[0])]
        tasks = [asyncio.ensure_future(one(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:  # when one has failed, the others stop before this returns
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def is_quick(self, inputs: Tensors) -> bool:
        return self._slot.loaded is not None and is_quick(self.profile, inputs)

    def infer_now(self, inputs: Tensors, *, arrived: float) -> Run | None:
        self._check_available()
        model = self._residency.touch(self._slot)
        waited = time.monotonic() - arrived
        run = model.run_now(inputs) if model is not None else None
        return None if run is None else self._counted(run, arrived, waited)

    async def infer(self, inputs: Tensors, *, arrived: float, deadline: float, start_by: float) -> Run:
        self._check_available()
        return await self._infer(inputs, arrived=arrived, deadline=deadline, start_by=start_by)

    async def _infer(self, inputs: Tensors, *, arrived: float, deadline: float, start_by: float) -> Run:
        """Run the model; a call that was let in finishes, whoever unloads the model meanwhile."""
        async with self._residency.use(self._slot) as model:
            waited = time.monotonic() - arrived
            run = await model.run(inputs, deadline=deadline, start_by=start_by)
        return self._counted(run, arrived, waited)

    def _counted(self, run: Run, arrived: float, waited: float) -> Run:
        self._check_size(run.outputs)
        self.statistics.success.add(time.monotonic() - arrived)
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

    def _check_available(self) -> None:
        if not self.available:
            raise ModelUnloaded.named(self._name)

    def _check_size(self, outputs: Tensors) -> None:
        size = sum(array.nbytes for array in outputs.values())
        if size > self._output_bytes:
            raise ToolOutputTooLarge.of(self._name, size_bytes=size, max_bytes=self._output_bytes)
