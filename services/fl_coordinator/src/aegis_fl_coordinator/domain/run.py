"""A training run: what was asked, where it stands, and which moves are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from aegis_fl_coordinator.domain.errors import RunEnded, RunNotPausable, RunNotResumable
from aegis_fl_coordinator.domain.evaluation import Evaluation
from aegis_fl_coordinator.domain.gate import CarbonPolicy
from aegis_fl_coordinator.domain.nodes import NodeSelector
from aegis_fl_coordinator.domain.privacy import Privacy
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
    PAUSING = "pausing"
    PAUSED = "paused"


ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
TRAINING: Final = frozenset({State.PENDING, State.WAITING_FOR_NODES, State.WAITING_FOR_GRID, State.RUNNING})
_NEXT: Final[Mapping[State, frozenset[State]]] = {
    **{
        state: TRAINING | {State.PUBLISHING, State.SUCCEEDED, State.FAILED, State.CANCELLING, State.PAUSING}
        for state in TRAINING
    },
    State.PUBLISHING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    # Out of a pause leads `resumed`, and nothing else: an app that is late moves nothing.
    State.PAUSING: frozenset({State.PAUSED, State.FAILED, State.CANCELLING}),
    State.PAUSED: frozenset({State.CANCELLING}),
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
        privacy: What the run may spend of its nodes' privacy.
        evaluation: Who measures the model after each round.
        nodes: Which of the registered nodes take part.
        retention: How long the run is kept once it has ended; None for ever.
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
    privacy: Privacy = field(default_factory=Privacy)
    evaluation: Evaluation = Evaluation.APP
    nodes: NodeSelector = field(default_factory=NodeSelector)
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True)
class OpenGate:
    """A round that was let in: asking again gives the same answer, until it is `stale`.

    Attributes:
        time: When it was let in.
        attempt: How often.
        stale: True once the run was paused or had ended: the grid may be another one by now.
    """

    number: int
    decision: GateDecision
    time: datetime | None = None
    attempt: int = 1
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Who pauses a run, and how.

    Attributes:
        requester: Subject of who asked for it.
        asked: When.
        immediate: True when the round under way is given up.
        before: The state that it was asked for in.
        told: True once the app has heard of it, and so ends.
        since: When the pause began; None while the round is being finished.
    """

    requester: str
    asked: datetime
    immediate: bool
    before: State
    told: bool = False
    since: datetime | None = None


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
        pause: Set while it is being paused, or is.
        given_up: Flower's id of the run that was ended when it was paused or failed.
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
    pause: Pause | None = None
    given_up: int | None = None

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
    def expire_time(self) -> datetime | None:
        """When it may be removed; None while it has not ended, or where it is kept for ever."""
        if not self.ended or self.end_time is None or self.spec.retention is None:
            return None
        return self.end_time + self.spec.retention

    def expired(self, now: datetime) -> bool:
        return self.expire_time is not None and self.expire_time <= now

    @property
    def stopping(self) -> bool:
        return self.ended or self.state is State.CANCELLING

    @property
    def latest_start(self) -> datetime | None:
        """When the round that waits for the grid starts at the latest; None where none waits."""
        if self.state is not State.WAITING_FOR_GRID or self.waiting_since is None:
            return None
        return self.spec.carbon.latest_start(self.waiting_since, self.rounds)[0]

    @property
    def let_in(self) -> int:
        """The newest round that may be trained; 0 for none."""
        return self.opened.number if self.opened and not self.opened.stale else 0

    @property
    def under_way(self) -> bool:
        """True while a round was let in and not reported."""
        return self.let_in > (self.rounds[-1].number if self.rounds else 0)

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
        pause = self.pause if state in (State.PAUSING, State.PAUSED) else None
        end_time = now if state in ENDED else None
        return replace(self, state=state, message=message, end_time=end_time, pause=pause)

    def pausing(self, requester: str, *, immediate: bool, now: datetime) -> TrainingRun:
        """Return the run on its way into a pause; one that is in it, or on its way, hurries at most.

        Raises:
            RunNotPausable: It trains no more, or is to be stopped.
        """
        if self.state is State.PAUSED:
            return self
        if self.state is State.PAUSING and self.pause:
            return replace(self, pause=replace(self.pause, immediate=immediate or self.pause.immediate))
        if self.state not in TRAINING:
            raise RunNotPausable(
                f"{self.name} is {self.state.value} and cannot be paused",
                name=self.name,
                state=self.state.value,
            )
        pause = Pause(requester, now, immediate, self.state)
        finishing = self.under_way and not immediate
        message = f"{requester} pauses it" + (f"; round {self.let_in} is finished first" if finishing else "")
        return replace(self.moved(State.PAUSING, message, now=now), pause=pause)

    def paused(self, engine_run: int | None, *, now: datetime) -> TrainingRun:
        """Return the run paused, its run in the engine ended."""
        if self.pause is None:
            raise RunEnded(f"{self.name} is not to be paused any more", name=self.name)
        message = f"paused by {self.pause.requester} after {len(self.rounds)} of {self.spec.rounds} rounds"
        return replace(
            self.moved(State.PAUSED, message, now=now),
            pause=replace(self.pause, since=now),
            engine_run=None,
            given_up=self.given_up if engine_run is None else engine_run,
        )

    def resumed(self, requester: str) -> TrainingRun:
        """Return the run on its way again; one that goes on stays as it is.

        Raises:
            RunNotResumable: It has succeeded, is or was to be stopped, or its app is ending for the pause.
        """
        pause = self.pause
        if self.state is State.PAUSING and pause and not pause.told and not pause.immediate:
            return replace(self, state=pause.before, message=f"{requester} called the pause off", pause=None)
        if self.state in TRAINING or self.state is State.PUBLISHING:
            return self
        if self.state not in (State.PAUSED, State.FAILED):
            raise RunNotResumable(
                f"{self.name} is {self.state.value}; a run that is paused or has failed can be resumed",
                name=self.name,
                state=self.state.value,
            )
        return replace(
            self,
            state=State.PENDING,
            message=f"resumed by {requester}; goes on after round {len(self.rounds)}",
            end_time=None,
            pause=None,
            engine_run=None,
            given_up=self.given_up if self.engine_run is None else self.engine_run,
            opened=self.opened and replace(self.opened, stale=True),
            waiting_since=None,
            submissions=0,
        )

    def with_open_gate(self, number: int, decision: GateDecision, *, now: datetime) -> TrainingRun:
        """Return the run with round *number* let in."""
        run = self.moved(State.RUNNING, f"round {number} of {self.spec.rounds}", now=now)
        before = self.opened.attempt if self.opened and self.opened.number == number else 0
        return replace(run, opened=OpenGate(number, decision, now, before + 1), waiting_since=None)

    def with_round(self, report: RoundReport, *, now: datetime) -> TrainingRun:
        """Return the run with *report*, or the run itself when that round was reported before."""
        if any(known.number == report.number for known in self.rounds):
            return self
        report = replace(report, ended=now)
        if self.opened and self.opened.number == report.number:
            gate = self.opened
            report = replace(report, gate=gate.decision, started=gate.time, attempt=gate.attempt)
        return replace(self, rounds=(*self.rounds, report), submissions=0)
