"""One round of a run: how it was let in, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum


@dataclass(frozen=True, slots=True)
class ZoneShare:
    """A zone's part in a gate's decision.

    Attributes:
        zone: Resource name; empty for the carbon service's default.
        share: Its part of the power, above 0 to 1.
        intensity: In gCO2e/kWh; None when there was none.
    """

    zone: str
    share: float
    intensity: float | None = None


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the carbon gate said before a round.

    Attributes:
        clean: True when the rule was met.
        reason: One word: the carbon service's, or `MAX_WAIT`, `MAX_TOTAL_WAIT` or `CARBON_UNAVAILABLE`.
        intensity: In gCO2e/kWh; None when there was none.
        threshold: In gCO2e/kWh; None when the carbon service did not answer.
        source: Provider of the intensity, or empty.
        waited: Time that the round waited for the grid.
        zones: The zones that counted.
    """

    clean: bool
    reason: str
    intensity: float | None = None
    threshold: float | None = None
    source: str = ""
    waited: timedelta = timedelta()
    zones: tuple[ZoneShare, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """One node's failure; `node` is its resource name or empty when nobody knows it."""

    node: str
    message: str


class ResultState(Enum):
    """What became of a node's result."""

    USED = "used"
    DROPPED = "dropped"
    LATE = "late"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What one node did in a round.

    Attributes:
        node: Its resource name, or empty when nobody knows it.
        message: Why its result was not used, or empty.
        bytes_sent: Content sent to it; likewise received.
        duration: Until its result was here; None for one that was late.
    """

    node: str
    state: ResultState
    message: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Energy:
    """What a round used and emitted.

    Attributes:
        kwh: Energy; likewise the ends of its interval.
        grams: Emissions; None when no intensity was known.
        estimated: True unless energy and intensity were both measured.
    """

    kwh: float
    kwh_low: float
    kwh_high: float
    grams: float | None
    estimated: bool

    def plus(self, other: Energy | None) -> Energy:
        """Return both together."""
        if other is None:
            return self
        grams = [one.grams for one in (self, other) if one.grams is not None]
        return Energy(
            self.kwh + other.kwh,
            self.kwh_low + other.kwh_low,
            self.kwh_high + other.kwh_high,
            sum(grams) if grams else None,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round gave.

    Attributes:
        duration: From the opened gate to the aggregated model.
        started: When it was let in.
        ended: When it was reported.
        attempt: How often it was let in.
        outcomes: What each node did, by name; empty where only the round itself is wanted.
        cpu_s: CPU seconds beside the coordinator; None where nobody measured them.
        energy: As the ledger recorded it; None until then.
        unmetered_nodes: Nodes whose power nobody declared.
    """

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    node_results: int = 0
    node_failures: tuple[NodeFailure, ...] = ()
    duration: timedelta = timedelta()
    checkpoint_sha256: str = ""
    capped_nodes: tuple[str, ...] = ()
    epsilon: float | None = None
    delta: float | None = None
    noisy_releases: int | None = None
    gate: GateDecision | None = None
    started: datetime | None = None
    ended: datetime | None = None
    attempt: int = 1
    outcomes: tuple[NodeOutcome, ...] = ()
    bytes_sent: int = 0
    bytes_received: int = 0
    cpu_s: float | None = None
    energy: Energy | None = None
    unmetered_nodes: int = 0
