"""One round of a run: how it was let in, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the carbon gate said before a round.

    Attributes:
        clean: True when the intensity was at or below the threshold.
        reason: One word: the carbon service's, or `MAX_WAIT` or `CARBON_UNAVAILABLE`.
        intensity: In gCO2e/kWh; None when there was none.
        threshold: In gCO2e/kWh; None when the carbon service did not answer.
        source: Provider of the intensity, or empty.
        waited: Time that the round waited for the grid.
    """

    clean: bool
    reason: str
    intensity: float | None = None
    threshold: float | None = None
    source: str = ""
    waited: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """One node's failure; `node` is its resource name or empty when nobody knows it."""

    node: str
    message: str


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round gave. `duration` runs from the opened gate to the aggregated model."""

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
