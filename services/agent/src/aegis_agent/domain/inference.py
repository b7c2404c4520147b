"""Inference: what a model takes and gives, how it is run, and what a run gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from aegis_agent.domain.statistics import Statistics
from aegis_agent.domain.tool import Runner

Tensors = Mapping[str, Any]
"""Tensor name to numpy array. The domain passes them on and does not look inside."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        datatype: As the Open Inference Protocol names it, for example `FP32` or `BYTES`.
        shape: Size of each dimension; None for one of any size.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a model, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Strategy(Enum):
    """How a model is run; chosen by measuring it when it is loaded."""

    INLINE = "inline"
    """In the event loop: a run takes less time than handing it to a thread."""
    THREAD = "thread"
    """In a thread; stopped at the deadline."""
    BATCH = "batch"
    """In a thread, together with whatever has come in while the last run went on."""
    CHILD = "child"
    """In a child process, killed at the deadline: it cannot be stopped otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the load-time measurement found.

    Attributes:
        strategy: How the model is run.
        memory_bytes: What one instance adds to a process; at least the size of the file.
        provider: What runs it: `CPU` or `CUDA`.
        batch_1_us: Time of a run on one row, in microseconds; None where it could not be measured.
        batch_8_us: The same for eight rows; None where the first dimension is not open.
        terminate_ms: How long a running inference takes to stop when it is told to, in milliseconds; 0 where
            none lasts long enough to be stopped, None where it could not be measured.
        rows: True when each row's result depends on that row alone, bit for bit: rows of several requests can
            be run together, and a long request in pieces.
        inline_elements: Most elements of all inputs together that are run in the event loop.
        piece_rows: Most rows of one run, where `rows` holds.
        reason: Why the strategy was chosen, for people.
    """

    strategy: Strategy
    memory_bytes: int
    provider: str = "CPU"
    batch_1_us: float | None = None
    batch_8_us: float | None = None
    terminate_ms: float | None = None
    rows: bool = False
    inline_elements: int = 0
    piece_rows: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What one inference gave.

    Attributes:
        outputs: Every output by name.
        queue_s: How long it waited for its run to begin, in seconds.
        compute_s: How long the run took; in a batch, the whole batch's.
        rows: Rows of this inference.
        batch_rows: Rows of the whole run; 0 where another inference of the same run has them, so that runs
            are counted once.
        cpu_s: CPU seconds; in a batch, this inference's share by rows.
    """

    outputs: Tensors
    queue_s: float
    compute_s: float
    rows: int
    batch_rows: int
    cpu_s: float = 0.0


class NotStarted(TimeoutError):
    """An inference did not begin in time; nothing was run."""


class LoadedModel(Protocol):
    """One version in memory."""

    @property
    def memory_bytes(self) -> int:
        """What it holds."""
        ...

    def run_now(self, inputs: Tensors) -> Run | None:
        """Run the model where that keeps nobody waiting; return None, and do nothing, where it would.

        Raises:
            ToolFailed: The model reported an error.
        """
        ...

    async def run(self, inputs: Tensors, *, deadline: float, start_by: float) -> Run:
        """Run the model. When this is cancelled, the work stops before it returns.

        Args:
            inputs: Arrays that fit the signature.
            deadline: When the work has to have stopped, on the clock of the event loop.
            start_by: When it has to have begun, on the same clock.

        Raises:
            NotStarted: It could not begin in time.
            ToolFailed: The model reported an error.
            ToolCrashed: Its process died.
        """
        ...

    async def close(self) -> None:
        """Free everything; nothing runs any more."""
        ...


class ModelRunner(Runner, Protocol):
    """Runs one version of a model, on raw tensors as well as on what a tool takes.

    Attributes:
        serving: True while the version answers under its model's name; `close` then keeps it in memory.
        available: False while somebody has unloaded the model; every inference is refused then.
    """

    serving: bool
    available: bool

    @property
    def signature(self) -> Signature: ...

    @property
    def profile(self) -> Profile: ...

    @property
    def labels(self) -> Sequence[str]:
        """Names of its classes, in order, or none."""
        ...

    @property
    def statistics(self) -> Statistics: ...

    @property
    def resident_bytes(self) -> int:
        """What it holds in memory now; 0 when it is not loaded."""
        ...

    @property
    def loading(self) -> bool:
        """Whether it is being brought into memory."""
        ...

    async def load(self, data: bytes | None = None) -> None:
        """Bring it into memory, if it is not there.

        Args:
            data: The model file, where the caller has it.

        Raises:
            ModelMemoryExhausted: The models in use leave no room for it.
        """
        ...

    def unload(self) -> None:
        """Free its memory as soon as nobody uses it; the next inference loads it again."""
        ...

    def is_quick(self, inputs: Tensors) -> bool:
        """Return whether the model is in memory and runs in the event loop: such a run never waits."""
        ...

    def infer_now(self, inputs: Tensors, *, arrived: float) -> Run | None:
        """Do what `infer` does for inputs for which `is_quick` holds; None means that it did nothing."""
        ...

    async def infer(self, inputs: Tensors, *, arrived: float, deadline: float, start_by: float) -> Run:
        """Run the model; see `LoadedModel.run`. Whoever calls counts the failures.

        Args:
            inputs: Arrays that fit the signature.
            arrived: When the request came, on the clock of the event loop.
            deadline: When the work has to have stopped, on the same clock.
            start_by: When it has to have begun, on the same clock.
        """
        ...
