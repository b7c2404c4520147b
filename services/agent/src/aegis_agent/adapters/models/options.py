"""How models are served."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from aegis_agent.adapters.children.setup import WorkerLimits


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
