"""Counters of one model version, in the terms of the Open Inference Protocol's statistics extension."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took together, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class Statistics:
    """Counters since the version was first loaded in this process.

    Attributes:
        last_inference_ms: When it last ran, in milliseconds since 1970; 0 for never.
        inferences: Rows that it was run on.
        executions: Times that it was run; a batch counts once.
        batches: Run time by number of rows.
    """

    last_inference_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    batches: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def ran(self, *, rows: int, batch_rows: int, queue_s: float, compute_s: float, now_ms: int) -> None:
        """Count an inference that went well.

        Args:
            rows: Its rows.
            batch_rows: Rows of the run, or 0 where another inference of the same run counts them.
            queue_s: How long it waited, in seconds.
            compute_s: How long the run took, in seconds.
            now_ms: Present time, in milliseconds since 1970.
        """
        self.last_inference_ms = now_ms
        self.inferences += rows
        self.queue.add(queue_s)
        self.compute_infer.add(compute_s)
        if batch_rows:
            self.executions += 1
            self.batches[batch_rows].add(compute_s)
