"""Metrics of the controller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from aegis_carbon.controller.domain.job import JobStore
from aegis_carbon.controller.domain.record import record_of


class ControllerMetrics:
    """Counts what is told about Jobs, and reports, each time metrics are collected, where they stand."""

    def __init__(
        self, meter: Meter, store: JobStore, *, leading: Callable[[], bool], reachable: Callable[[], bool]
    ) -> None:
        self._store = store
        self._did = meter.create_counter(
            "carbon_controller_events",
            description="What was told about Jobs, by reason of the Event, and failures.",
        )
        self._gauge(
            meter, "carbon_controller_jobs", "Annotated Jobs that have not ended, by phase.", self._jobs
        )
        self._gauge(
            meter,
            "carbon_controller_leading",
            "Whether this process leads.",
            lambda: [Observation(int(leading()))],
        )
        self._gauge(
            meter,
            "carbon_controller_carbon_reachable",
            "Whether the carbon service has answered the last questions of every tenant; 1 on a follower.",
            lambda: [Observation(int(reachable()))],
        )

    def did(self, action: str) -> None:
        self._did.add(1, {"reason": action})

    def _jobs(self) -> Iterable[Observation]:
        records = [record_of(job.annotations) for job in self._store.all() if job.ended is None]
        phases = Counter(record.phase.value if record is not None else "none" for record in records)
        return [Observation(count, {"phase": phase}) for phase, count in phases.items()]

    def _gauge(
        self, meter: Meter, name: str, description: str, values: Callable[[], Iterable[Observation]]
    ) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return values()

        meter.create_observable_gauge(name, callbacks=[observe], description=description)
