"""Inferences on raw tensors: the inference protocol's way to the models, beside the tools'."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aegis_agent.domain.call import Caller, Priority
from aegis_agent.domain.dispatch import MAY_RAISE
from aegis_agent.domain.errors import ToolTimeout
from aegis_agent.domain.fair_queue import Claim
from aegis_agent.domain.inference import NotStarted, Run, Signature, Tensors
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.model_tools import runner_of
from aegis_agent.domain.models import Models
from aegis_agent.domain.registry import Registration
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import RunsIn
from aegis_agent.domain.usage import Unaccounted, Usage, UsedCall, Uses

READY: Final = "READY"
LOADING: Final = "LOADING"
UNAVAILABLE: Final = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request asks for beside its result.

    Attributes:
        time_left: Longest time that it may take; None means the model's default.
        queue_timeout: Longest time until its run begins; None means as long as its deadline lets it.
        priority: Class of the call; None means the model's. One above the model's counts for admins only.
    """

    time_left: timedelta | None = None
    queue_timeout: timedelta | None = None
    priority: Priority | None = None


Read = Callable[[Signature], Awaitable[tuple[Tensors, Wish]]]
"""Turns a request into arrays that fit the signature, and what else it asks for; raises an AegisError for one
that does not fit."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The answer to one request."""

    version: str
    signature: Signature
    run: Run
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Indexed:
    """One version and its state in this replica."""

    version: ModelVersion
    state: str
    reason: str


class Inferences:
    """Runs models on raw tensors; a tenant sees its own models only.

    Args:
        models: The models.
        shared: Slots that all calls in child processes share beside each model's own; None means no bound.
        uses: Takes what inferences used; None where nobody asks.
    """

    def __init__(self, models: Models, *, shared: Slots | None = None, uses: Uses | None = None) -> None:
        self.models: Final = models
        self.draining = False
        self._shared = shared
        self._uses = uses or Unaccounted()

    def begin_drain(self) -> None:
        """Be ready no longer: callers that ask are to go elsewhere. What is called all the same is run."""
        self.draining = True

    async def infer(self, name: str, version: str, read: Read, *, caller: Caller) -> Inference:
        """Run a model once. When this is cancelled, the work stops.

        Args:
            name: The model.
            version: Id of a version, or empty for the one that answers.
            read: Gives the inputs, and what else is asked for.
            caller: For whom.

        Raises:
            UnknownModel, UnknownModelVersion, ModelNotServed, ModelUnloaded: As `Models.find` says.
            InvalidInferenceRequest: It breaks the protocol.
            InvalidToolInput: The inputs do not fit the model.
            ToolTimeout: Time is over; the work has stopped, or was never started.
            ToolOverloaded, ToolQueueFull: Too many calls wait.
            ToolFailed, ToolCrashed, ToolOutputTooLarge, ModelMemoryExhausted: As the model's runner says.
        """
        registration = await self.models.find(name, version, tenant=caller.tenant)
        with registration.in_use():
            runner = runner_of(registration.tool)
            arrived = time.monotonic()
            try:
                inputs, wish = await read(runner.signature)
                run = await _Running(registration, caller, wish, self._shared, arrived).run(inputs)
            except BaseException:
                runner.statistics.fail.add(time.monotonic() - arrived)
                raise
            used = UsedCall(caller.tenant, name, name, Usage(run.cpu_s), run.compute_s)
            self._uses.used(used)
            return Inference(registration.tool.model_version, runner.signature, run, runner.labels)

    def index(self, *, tenant: str, names: list[str]) -> list[Indexed]:
        """Return the versions of the named models, newest first, each with its state."""
        return [
            Indexed(version, *self.state(version))
            for name in names
            for version in self.models.versions(name, tenant=tenant)
        ]

    def state(self, version: ModelVersion) -> tuple[str, str]:
        """Return the state of a version in this replica, and why it is in it."""
        runner, open_ = self.models.loaded(version)
        if not open_:
            return UNAVAILABLE, "unloaded"
        if runner is None or not runner.resident_bytes:
            loading = runner is not None and runner.loading
            return (LOADING, "") if loading else (READY, "in the store; loaded when it is called")
        return READY, ""


_NOTHING: Final[AbstractAsyncContextManager[None]] = nullcontext()


def _unbounded(_: Claim) -> AbstractAsyncContextManager[None]:
    return _NOTHING


class _Running:
    """One inference, from its place in the queue to its result."""

    def __init__(
        self, registration: Registration, caller: Caller, wish: Wish, shared: Slots | None, arrived: float
    ) -> None:
        self._registration = registration
        in_child = registration.tool.spec.runs_in is RunsIn.CHILD
        self._shared = shared.held if shared is not None and in_child else _unbounded
        self._spec = registration.tool.spec
        self._arrived = arrived
        spec = self._spec
        limit = spec.default_timeout if wish.time_left is None else wish.time_left
        self._limit = max(min(limit, spec.max_timeout), timedelta(0))
        self._deadline = self._arrived + self._limit.total_seconds()
        self._patience = wish.queue_timeout
        wanted = spec.priority if wish.priority is None else wish.priority
        priority = wanted if MAY_RAISE in caller.roles else max(wanted, spec.priority)
        self._tenant, self._priority = caller.tenant, priority

    async def run(self, inputs: Tensors) -> Run:
        runner, admission = runner_of(self._registration.tool), self._registration.admission
        if self._shared is _unbounded and admission.free and runner.is_quick(inputs):
            run = self._now(inputs)
            if run is not None:
                return run
        return await self._in_turn(inputs)

    def _now(self, inputs: Tensors) -> Run | None:
        """Run without what only a run that can wait needs: it was a fifth of the cost of a quick model."""
        admission, claim = self._registration.admission, self._claim()
        begun = admission.begin_now(claim)
        try:
            run = runner_of(self._registration.tool).infer_now(inputs, arrived=self._arrived)
        finally:
            admission.end(claim, begun)
        if run is not None:
            admission.finished(run.compute_s)
        return run

    async def _in_turn(self, inputs: Tensors) -> Run:
        patience = self._patience
        start_by = math.inf if patience is None else self._arrived + patience.total_seconds()
        scope = asyncio.timeout_at(min(self._deadline, start_by))
        admitted = False
        admission = self._registration.admission
        try:
            async with scope, admission.slot(self._claim()), self._shared(self._claim()):
                admitted = True
                scope.reschedule(self._deadline)
                run = await runner_of(self._registration.tool).infer(
                    inputs, arrived=self._arrived, deadline=self._deadline, start_by=start_by
                )
        except NotStarted:
            raise self._late(running=False) from None
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._late(running=admitted) from None
        admission.finished(run.compute_s)
        return run

    def _claim(self) -> Claim:
        return Claim(self._tenant, self._priority, self._deadline)

    def _late(self, *, running: bool) -> ToolTimeout:
        waits = not running and self._patience is not None
        limit = min(self._patience, self._limit) if waits and self._patience is not None else self._limit
        return ToolTimeout.of(self._spec.name, limit, running=running)
