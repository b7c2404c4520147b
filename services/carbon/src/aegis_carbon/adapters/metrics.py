"""Metrics of the carbon service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from aegis_carbon.domain.breaker import Breaker
from aegis_carbon.domain.ledger.entry import Entry
from aegis_carbon.domain.providers import CacheKey
from aegis_carbon.domain.schedule import Decision
from aegis_carbon.domain.scores import ForecastScores, Score

_NONE: Final = "none"
_ANSWERS: Final = ("ok", "no_data")
_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Counters:
    """Counts questions to providers, decisions by what they rest on, and faults of the cache.

    What `observe` adds is that of this process: replicas differ, and Prometheus tells them apart.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._up: dict[str, bool] = {}
        self._good: dict[str, float] = {}
        self._durations = meter.create_histogram(
            "carbon.provider.duration",
            unit="s",
            description="Duration of questions to a provider, retries included.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._requests = meter.create_counter(
            "carbon_provider_requests", description="Questions to a provider, by outcome."
        )
        self._decisions = meter.create_counter(
            "carbon_decisions", description="Decisions, by source and quality of the intensity."
        )
        self._faults = meter.create_counter(
            "carbon_cache_faults", description="Operations that Redis failed; answers did not suffer."
        )

    def observe(self, breaker: Breaker, scores: ForecastScores) -> None:
        """Report, each time that metrics are collected, how providers are and how good forecasts were."""
        self._gauge(
            "carbon.provider.up",
            "1",
            "Whether the last question to a provider was answered.",
            lambda: (Observation(int(up), {"provider": name}) for name, up in list(self._up.items())),
        )
        self._gauge(
            "carbon.provider.breaker.open",
            "1",
            "Whether a provider is left alone because it failed again and again.",
            lambda: (Observation(int(breaker.is_open(n)), {"provider": n}) for n in list(self._up)),
        )
        self._gauge(
            "carbon.provider.answer.age",
            "s",
            "Time since a provider answered last.",
            lambda: (
                Observation(time.monotonic() - at, {"provider": name})
                for name, at in list(self._good.items())
            ),
        )
        self._scores("mape", "Mean absolute error of forecasts, as a share of what was measured.", scores)
        self._scores("bias", "Mean error of forecasts, forecast minus measured, as a share of it.", scores)
        self._scores("count", "Slots that the error of forecasts is the mean of.", scores)

    def _scores(self, what: str, description: str, scores: ForecastScores) -> None:
        name = "carbon.forecast.scored" if what == "count" else f"carbon.forecast.{what}"

        def observed() -> Iterator[Observation]:
            for score in scores.scores():
                yield Observation(getattr(score, what), _attributes(score))

        self._gauge(name, "1", description, observed)

    def _gauge(
        self, name: str, unit: str, description: str, observed: Callable[[], Iterable[Observation]]
    ) -> None:
        def callback(_: CallbackOptions) -> list[Observation]:
            return list(observed())

        self._meter.create_observable_gauge(name, [callback], unit=unit, description=description)

    def asked(self, key: CacheKey, outcome: str, seconds: float) -> None:
        self._durations.record(seconds, {"provider": key.provider, "topic": key.topic.value})
        self._up[key.provider] = outcome in _ANSWERS
        if outcome in _ANSWERS:
            self._good[key.provider] = time.monotonic()
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


def _attributes(score: Score) -> dict[str, str]:
    return {"zone": score.zone, "source": score.source, "horizon": score.horizon}


class LedgerCounters:
    """Counts entries by method, statements, and what waiting saved."""

    def __init__(self, meter: Meter) -> None:
        self._entries = meter.create_counter(
            "carbon_ledger_entries", description="Usages recorded, by kind and energy method."
        )
        # Up and down: waiting made some work worse.
        self._saved = meter.create_up_down_counter(
            "carbon_ledger_saved_grams", description="Grams of CO2-equivalent saved by waiting; signed."
        )
        self._statements = meter.create_counter(
            "carbon_ledger_restatements", description="Entries stated anew, by reason."
        )

    def recorded(self, entry: Entry) -> None:
        usage = entry.usage
        self._entries.add(1, {"kind": usage.kind.value, "method": usage.method.value})

    def saved(self, grams: float) -> None:
        if grams:
            self._saved.add(grams)

    def stated_anew(self, reason: str) -> None:
        self._statements.add(1, {"reason": reason})
