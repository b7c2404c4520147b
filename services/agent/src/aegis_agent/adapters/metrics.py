"""What the agent counts about calls, as OpenTelemetry metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from aegis_agent.domain.cache import ResultCache
from aegis_agent.domain.registry import Registration, Registry
from aegis_agent.domain.usage_book import UsageBook
from aegis_common.telemetry import Attributes, Telemetry

_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
)  # fmt: skip


class CallMetrics:
    """Counts calls by tool; a `Measure` of the domain.

    - `aegis.agent.call.queue.duration` (s): how long calls waited for their slot;
    - `aegis.agent.call.execution.duration` (s) with `outcome`: `OK` or the reason of the error;
    - `aegis.agent.call.refused` with `reason`: calls that were not started.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._waited = telemetry.meter.create_histogram(
            "aegis.agent.call.queue.duration",
            unit="s",
            description="Time that a call waited for a slot.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._ran = telemetry.meter.create_histogram(
            "aegis.agent.call.execution.duration",
            unit="s",
            description="Time from the start of a tool to its end.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._refused = telemetry.meter.create_counter(
            "aegis.agent.call.refused", unit="1", description="Calls that were not started."
        )

    def waited(self, tool: str, seconds: float) -> None:
        self._waited.record(seconds, {"tool": tool})

    def ran(self, tool: str, seconds: float, outcome: str) -> None:
        self._ran.record(seconds, {"tool": tool, "outcome": outcome})

    def refused(self, tool: str, reason: str) -> None:
        self._refused.add(1, {"tool": tool, "reason": reason})


def observe_calls(telemetry: Telemetry, registry: Registry) -> None:
    """Report `aegis.agent.calls.running` and `aegis.agent.calls.waiting` of each tool in this process."""

    def summed(count: Callable[[Registration], int]) -> Callable[[], Iterable[tuple[float, Attributes]]]:
        def values() -> Iterable[tuple[float, Attributes]]:
            total = Counter[str]()  # tenants may have models of the same name
            for item in registry.everything():
                total[item.tool.spec.name] += count(item)
            return [(float(number), {"tool": name}) for name, number in total.items()]

        return values

    telemetry.observe(
        "aegis.agent.calls.running", "1", "Calls that run.", summed(lambda item: item.admission.running)
    )
    telemetry.observe(
        "aegis.agent.calls.waiting",
        "1",
        "Calls that wait for a slot.",
        summed(lambda item: item.admission.waiting),
    )


def observe_usage(telemetry: Telemetry, book: UsageBook) -> None:
    """Report `aegis.agent.usage.waiting`, `.dropped` and `.unmeasured`: what the ledger does not have."""
    for name, text, value in (
        ("waiting", "Sums of calls that the ledger does not have yet.", lambda: len(book)),
        (
            "dropped",
            "Calls whose usage was dropped: the ledger was away or refused.",
            lambda: book.dropped,
        ),
        ("unmeasured", "Calls of which nothing measures what they use.", lambda: book.unmeasured),
    ):
        telemetry.observe(f"aegis.agent.usage.{name}", "1", text, value)


def observe_cache(telemetry: Telemetry, cache: ResultCache) -> None:
    """Report `aegis.agent.cache.size` (By), `.entries`, `.hits` and `.misses`."""
    for name, unit, text, value in (
        ("size", "By", "Size of the results that are kept.", lambda: cache.size),
        ("entries", "1", "Results that are kept.", lambda: len(cache)),
        ("hits", "1", "Calls answered with a result that was there, or being made.", lambda: cache.hits),
        ("misses", "1", "Calls of cacheable tools that ran.", lambda: cache.misses),
    ):
        telemetry.observe(f"aegis.agent.cache.{name}", unit, text, value)
