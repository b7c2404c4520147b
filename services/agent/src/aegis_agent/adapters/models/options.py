"""How models are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.adapters.models.session import available


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How models are served.

    Attributes:
        threads: Threads of one inference; 1 and up.
        concurrency: Most runs of one model at once; 1 and up. A run may hold the rows of many calls.
        queue_size: Most calls that wait for a slot; 0 and up.
        timeout: Deadline of a call that brings none.
        memory_bytes: Most that all models hold in memory together.
        max_input_bytes: Most bytes of one call's inputs.
        limits: Of children.
    """

    threads: int = 1
    concurrency: int = 2
    queue_size: int = 64
    timeout: timedelta = timedelta(seconds=30)
    memory_bytes: int = 2 << 30
    max_input_bytes: int = 9 << 20
    limits: WorkerLimits = field(default_factory=WorkerLimits)

    def limits_with(self, providers: Sequence[str]) -> WorkerLimits:
        """Return the limits of a child whose model may be run by *providers*.

        CUDA maps far more addresses than it has memory, so that a limit of addresses would leave no device.
        """
        mapped = "CUDA" in providers and available("CUDA")
        return replace(self.limits, memory_bytes=None, open_files=None) if mapped else self.limits
