"""The carbon gate: whether a round may start, and when to ask again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.rounds import GateDecision, RoundReport, ZoneShare

DEFAULT_MAX_WAIT: Final = timedelta(hours=1)
MAX_WAIT: Final = "MAX_WAIT"
MAX_TOTAL_WAIT: Final = "MAX_TOTAL_WAIT"
CARBON_UNAVAILABLE: Final = "CARBON_UNAVAILABLE"
_ASK_AGAIN: Final = timedelta(seconds=30)
_ROUND: Final = timedelta(minutes=10)
_FIELD: Final = "training_run.carbon_policy"


@dataclass(frozen=True, slots=True)
class RoundForecast:
    """Starts a round unless waiting saves enough.

    Attributes:
        duration: Time that a round takes; None for as long as they took so far.
        min_saving: Least share of its emissions for which a round waits, 0 to 1; None for the carbon
            service's default.
    """

    duration: timedelta | None = None
    min_saving: float | None = None


@dataclass(frozen=True, slots=True)
class CarbonPolicy:
    """When a round may start.

    Attributes:
        zone: Resource name of the one zone that counts; empty for those of the nodes and the coordinator.
        max_intensity: In gCO2e/kWh; None for the zone's own threshold.
        max_wait: Longest wait before one round; then it starts anyway.
        percentile: Of the last seven days, instead of a threshold. Range: above 0 to 100.
        forecast: Instead of a threshold.
        max_total_wait: Longest wait of all rounds together; None for no such limit.
    """

    zone: str = ""
    max_intensity: float | None = None
    max_wait: timedelta = DEFAULT_MAX_WAIT
    percentile: float | None = None
    forecast: RoundForecast | None = None
    max_total_wait: timedelta | None = None

    def check(self) -> None:
        """Raise unless there is one rule at most.

        Raises:
            InvalidRunConfig: There are several.
        """
        rules = {
            "max_intensity_g_per_kwh": self.max_intensity,
            "percentile": self.percentile,
            "forecast": self.forecast,
        }
        given = [name for name, value in rules.items() if value is not None]
        if len(given) > 1:
            fault = f"has {' and '.join(given)}; a policy has one rule: leave all but one out"
            raise InvalidRunConfig(f"carbon_policy {fault}", violations={_FIELD: fault})

    def round_duration(self, rounds: Sequence[RoundReport]) -> timedelta:
        """Return how long the next round takes, as far as is known."""
        if self.forecast and self.forecast.duration:
            return self.forecast.duration
        took = [report.duration for report in rounds]
        return max(sum(took, timedelta()) / len(took), timedelta(seconds=1)) if took else _ROUND

    def latest_start(self, since: datetime, rounds: Sequence[RoundReport]) -> tuple[datetime, str]:
        """Return when a round that began to wait at *since* starts at the latest, and by which limit."""
        latest = since + self.max_wait
        if self.max_total_wait is None:
            return latest, MAX_WAIT
        waited = sum((report.gate.waited for report in rounds if report.gate), timedelta())
        total = since + max(self.max_total_wait - waited, timedelta())
        return (total, MAX_TOTAL_WAIT) if total < latest else (latest, MAX_WAIT)


@dataclass(frozen=True, slots=True)
class CarbonAnswer:
    """The carbon service's answer.

    Attributes:
        run_now: True when work should start now.
        clean: True when the rule is met; False too when there is no intensity.
        reason: The service's reason in one word.
        retry_after: When it makes sense to ask again; zero when the service did not say.
        next_window: Start of a cleaner window that is expected.
        zones: The zones that counted.
    """

    run_now: bool
    clean: bool
    reason: str
    intensity: float | None
    threshold: float | None
    source: str
    retry_after: timedelta = timedelta()
    next_window: datetime | None = None
    zones: tuple[ZoneShare, ...] = ()


class CarbonGate(Protocol):
    """Asks the carbon service on behalf of a run's creator."""

    async def check(
        self,
        policy: CarbonPolicy,
        *,
        zone: str,
        duration: timedelta,
        latest: datetime,
        principal: str,
        traceparent: str,
    ) -> CarbonAnswer:
        """Return the answer.

        Args:
            policy: The rule.
            zone: Resource name of the zone; empty for the carbon service's default.
            duration: How long the round takes.
            latest: When it starts at the latest.
            principal: The creator's stored record.
            traceparent: W3C trace context of the run.

        Raises:
            CarbonUnavailable: No answer.
            UnknownZone: The zone does not exist.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    """The round has to wait."""

    retry_after: timedelta
    message: str


def decide(
    answer: CarbonAnswer | None,
    policy: CarbonPolicy,
    *,
    since: datetime,
    now: datetime,
    rounds: Sequence[RoundReport] = (),
) -> GateDecision | Wait:
    """Decide on one answer; None stands for a carbon service that did not answer.

    A dead carbon service holds nothing up, and nothing waits longer than the policy allows.

    Args:
        answer: What the carbon service said.
        policy: The run's policy.
        since: When the round began to wait.
        now: The present moment.
        rounds: The run's rounds so far.
    """
    waited = now - since
    if answer is None:
        return GateDecision(False, CARBON_UNAVAILABLE, waited=waited)
    latest, limit = policy.latest_start(since, rounds)
    if answer.run_now or now >= latest:
        return GateDecision(
            answer.clean,
            answer.reason if answer.run_now else limit,
            answer.intensity,
            answer.threshold,
            answer.source,
            waited,
            answer.zones,
        )
    retry_after = min(answer.retry_after or _ASK_AGAIN, _ASK_AGAIN, latest - now)
    if answer.next_window is not None and answer.next_window > now:
        # A clean window may be short: it is not slept through.
        retry_after = min(retry_after, answer.next_window - now)
    return Wait(retry_after, _waiting(answer, latest))


def _waiting(answer: CarbonAnswer, latest: datetime) -> str:
    now = "has no value" if answer.intensity is None else f"is at {answer.intensity:.0f} gCO2e/kWh"
    several = f" in the mean of {len(answer.zones)} zones" if len(answer.zones) > 1 else ""
    limit = "" if not answer.threshold else f", the threshold is {answer.threshold:.0f}"
    window = answer.next_window
    better = f"; cleaner power is expected from {window:%Y-%m-%d %H:%M} UTC" if window else ""
    start = f"the round starts at {latest:%Y-%m-%d %H:%M:%S} UTC at the latest"
    return f"the grid {now}{several}{limit}{better}; {start}"
