"""Counters of the carbon service."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from aegis_carbon.domain.providers import CacheKey
from aegis_carbon.domain.schedule import Decision

_NONE = "none"


class Counters:
    """Counts questions to providers, decisions by what they rest on, and faults of the cache."""

    def __init__(self, meter: Meter) -> None:
        self._requests = meter.create_counter(
            "carbon_provider_requests", description="Questions to a provider, by outcome."
        )
        self._decisions = meter.create_counter(
            "carbon_decisions", description="Decisions, by source and quality of the intensity."
        )
        self._faults = meter.create_counter(
            "carbon_cache_faults", description="Operations that Redis failed; answers did not suffer."
        )

    def asked(self, key: CacheKey, outcome: str) -> None:
        self._requests.add(1, {"provider": key.provider, "topic": key.topic.value, "outcome": outcome})

    def decided(self, decision: Decision) -> None:
        self._decisions.add(
            1,
            {
                "verdict": decision.verdict.value,
                "reason": decision.reason.value,
                "source": decision.source or _NONE,
                "quality": decision.quality.value if decision.quality else _NONE,
            },
        )

    def cache_fault(self, operation: str) -> None:
        self._faults.add(1, {"operation": operation})
