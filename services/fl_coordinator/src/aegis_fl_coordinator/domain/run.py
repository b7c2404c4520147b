"""A training run: what was asked, where it stands, and which moves are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Final

from aegis_fl_coordinator.domain.errors import RunEnded
from aegis_fl_coordinator.domain.gate import CarbonPolicy
from aegis_fl_coordinator.domain.rounds import GateDecision, RoundReport
from aegis_fl_coordinator.domain.strategies import Aggregation

ConfigValue = bool | int | float | str


class EngineKind(Enum):
    """Where the nodes of a run are."""

    DEPLOYMENT = "deployment"
    IN_PROCESS = "in_process"


class State(Enum):
    PENDING = "pending"
    WAITING_FOR_NODES = "waiting_for_nodes"
    WAITING_FOR_GRID = "waiting_for_grid"
    RUNNING = "running"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
_TRAINING: Final = frozenset({State.PENDING, State.WAITING_FOR_NODES, State.WAITING_FOR_GRID, State.RUNNING})
_NEXT: Final[Mapping[State, frozenset[State]]] = {
    **{
        state: _TRAINING | {State.PUBLISHING, State.SUCCEEDED, State.FAILED, State.CANCELLING}
        for state in _TRAINING
    },
    State.PUBLISHING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    # A model that was published before the request came through stays published.
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED}),
    **{state: frozenset() for state in ENDED},
}


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What was asked for, with the coordinator's defaults filled in.

    Attributes:
        app: Name of an approved app.
        rounds: Range: 1 to 10000.
        min_nodes: Nodes that a round needs. Range: 1 to 10000.
        model: Resource name that the result is published as, or empty.
        engine: Where the nodes are.
        virtual_nodes: Nodes of a run in process. Range: 0 to 10000; 0 for a run at the sites.
        aggregation: How updates become the next model.
        seed: Of what the run draws; None for a run that need not repeat.
    """

    app: str
    rounds: int
    min_nodes: int
    carbon: CarbonPolicy = CarbonPolicy()
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    model: str = ""
    engine: EngineKind = EngineKind.DEPLOYMENT
    virtual_nodes: int = 0
    aggregation: Aggregation = field(default_factory=Aggregation)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class OpenGate:
    """A round that was let in: asking again gives the same answer."""

    number: int
    decision: GateDecision


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One run, as stored.

    Attributes:
        run_id: The part after `trainingRuns/`.
        creator: Subject of who created it.
        principal: The creator's stored record, for calls on their behalf.
        traceparent: W3C trace context that the run's own calls carry.
        app_sha256: Digest of the bundle that runs.
        token_sha256: Digest of the run's token; the token itself lies in the ServerApp's folder only.
        engine_run: Flower's id of the run, or None while nothing was submitted.
        opened: The last round that was let in.
        waiting_since: When the round after it began to wait for the grid.
        submissions: How often the run was submitted since its last finished round.
    """

    tenant: str
    run_id: str
    spec: RunSpec
    state: State
    message: str
    creator: str
    principal: str
    traceparent: str
    app_sha256: str
    token_sha256: str
    create_time: datetime
    end_time: datetime | None = None
    engine_run: int | None = None
    opened: OpenGate | None = None
    waiting_since: datetime | None = None
    rounds: tuple[RoundReport, ...] = ()
    model_version: str = ""
    submissions: int = 0

    @property
    def name(self) -> str:
        return f"trainingRuns/{self.run_id}"

    @property
    def trace_id(self) -> str:
        return self.traceparent.split("-")[1]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def stopping(self) -> bool:
        return self.ended or self.state is State.CANCELLING

    def moved(self, state: State, message: str, *, now: datetime) -> TrainingRun:
        """Return the run in *state*.

        Raises:
            RunEnded: The move is not allowed: the run has ended or is being stopped.
        """
        if state is self.state:
            return replace(self, message=message)
        if state not in _NEXT[self.state]:
            raise RunEnded(
                f"{self.name} is {self.state.value} and cannot become {state.value}",
                name=self.name,
                state=self.state.value,
            )
        return replace(self, state=state, message=message, end_time=now if state in ENDED else None)

    def with_open_gate(self, number: int, decision: GateDecision, *, now: datetime) -> TrainingRun:
        """Return the run with round *number* let in."""
        run = self.moved(State.RUNNING, f"round {number} of {self.spec.rounds}", now=now)
        return replace(run, opened=OpenGate(number, decision), waiting_since=None)

    def with_round(self, report: RoundReport) -> TrainingRun:
        """Return the run with *report*, or the run itself when that round was reported before."""
        if any(known.number == report.number for known in self.rounds):
            return self
        gate = self.opened.decision if self.opened and self.opened.number == report.number else None
        return replace(self, rounds=(*self.rounds, replace(report, gate=gate)), submissions=0)
