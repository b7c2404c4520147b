"""A model in memory beside what its bundle brings: children that make tensors of what users send, labels."""

from __future__ import annotations

from typing import Any

from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.domain.call import Call, Priority
from aegis_agent.domain.fair_queue import Claim
from aegis_agent.domain.inference import LoadedModel, Run, Tensors
from aegis_agent.domain.slots import Slots


class BundledModel:
    """A `LoadedModel` of the domain.

    Args:
        model: The model.
        pool: The children; None where the task needs none.
        shared: Slots that calls in child processes share; None where there is no bound, or where a caller
            holds one already.
        extra_bytes: What there is in memory beside the model.
    """

    def __init__(
        self, model: LoadedModel, pool: WorkerPool | None, *, shared: Slots | None, extra_bytes: int
    ) -> None:
        self._model = model
        self._pool = pool
        self._shared = shared
        self._extra_bytes = extra_bytes

    @property
    def memory_bytes(self) -> int:
        return self._model.memory_bytes + self._extra_bytes

    def run_now(self, inputs: Tensors) -> Run | None:
        return self._model.run_now(inputs)

    async def run(self, inputs: Tensors, *, deadline: float, start_by: float) -> Run:
        return await self._model.run(inputs, deadline=deadline, start_by=start_by)

    async def prepare(self, call: Call) -> Any:
        """Return what a child makes of a call's arguments; it is killed at the deadline.

        Raises:
            InvalidToolInput: It refused them.
            ToolFailed, ToolCrashed: It failed; `ToolCpuExceeded` and the like tell of its limits.
        """
        if self._pool is None:
            raise TypeError("this task has nothing prepared in children")
        if self._shared is None:
            return await self._pool.run(call)
        async with self._shared.held(Claim(call.caller.tenant, Priority.NORMAL, call.deadline)):
            return await self._pool.run(call)

    async def close(self) -> None:
        await self._model.close()
        if self._pool is not None:
            await self._pool.close()


async def prepared(model: LoadedModel, call: Call) -> Any:
    """Have a bundle's children prepare the arguments of *call*; see `BundledModel.prepare`."""
    if not isinstance(model, BundledModel):
        raise TypeError("a model without a bundle has nothing prepared")
    return await model.prepare(call)
