"""The carbon gate: whether a round may start, and when to ask again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from aegis_fl_coordinator.domain.rounds import GateDecision

DEFAULT_MAX_WAIT: Final = timedelta(hours=1)
MAX_WAIT: Final = "MAX_WAIT"
CARBON_UNAVAILABLE: Final = "CARBON_UNAVAILABLE"
_ASK_AGAIN: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class CarbonPolicy:
    """When a round may start.

    Attributes:
        zone: Resource name of the zone that counts; empty for the carbon service's default.
        max_intensity: In gCO2e/kWh; None for the zone's own threshold.
        max_wait: Longest wait before one round; then it starts anyway.
    """

    zone: str = ""
    max_intensity: float | None = None
    max_wait: timedelta = DEFAULT_MAX_WAIT


@dataclass(frozen=True, slots=True)
class CarbonAnswer:
    """The carbon service's answer.

    Attributes:
        run_now: True when work should start now.
        clean: True when the intensity is at or below the threshold; False too when there is none.
        reason: The service's reason in one word.
        retry_after: When it makes sense to ask again; zero when the service did not say.
    """

    run_now: bool
    clean: bool
    reason: str
    intensity: float | None
    threshold: float | None
    source: str
    retry_after: timedelta = timedelta()


class CarbonGate(Protocol):
    """Asks the carbon service on behalf of a run's creator."""

    async def check(self, policy: CarbonPolicy, *, principal: str, traceparent: str) -> CarbonAnswer:
        """Return the answer.

        Args:
            policy: Zone and threshold.
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
    answer: CarbonAnswer | None, policy: CarbonPolicy, *, since: datetime, now: datetime
) -> GateDecision | Wait:
    """Decide on one answer; None stands for a carbon service that did not answer.

    A dead carbon service holds nothing up, and nothing waits longer than the policy allows.

    Args:
        answer: What the carbon service said.
        policy: The run's policy.
        since: When the round began to wait.
        now: The present moment.
    """
    waited = now - since
    if answer is None:
        return GateDecision(False, CARBON_UNAVAILABLE, waited=waited)
    if answer.run_now or waited >= policy.max_wait:
        return GateDecision(
            answer.clean,
            answer.reason if answer.run_now else MAX_WAIT,
            answer.intensity,
            answer.threshold,
            answer.source,
            waited,
        )
    latest = since + policy.max_wait
    retry_after = min(answer.retry_after or _ASK_AGAIN, _ASK_AGAIN, latest - now)
    return Wait(retry_after, _waiting(answer, latest))


def _waiting(answer: CarbonAnswer, latest: datetime) -> str:
    now = "has no value" if answer.intensity is None else f"is at {answer.intensity:.0f} gCO2e/kWh"
    limit = "" if answer.threshold is None else f", the threshold is {answer.threshold:.0f}"
    return f"the grid {now}{limit}; the round starts at {latest:%Y-%m-%d %H:%M:%S} UTC at the latest"
