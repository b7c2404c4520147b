"""Training runs as the SDK shows them, and how they are read from messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_client.core.operation import Page, Step
from aegis_client.core.values import enum_name, known, moment, span, unstruct
from aegis_client.round_forms import Round, read_round

ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """How the updates of a round become the next model.

    Attributes:
        strategy: One of Flower's, `module:Class` of the app's own, or empty for the app's choice.
        parameters: Its parameters by their names in Flower.
        fraction: Part of the online nodes that a round trains on, above 0 to 1; None for all.
        quorum: Usable results that a round needs; 0 for half of the nodes that were asked, rounded up.
        round_timeout: How long a round waits for results; None for the app's own choice.
        max_update_ratio: Longest update as a multiple of the median one; 0 drops none.
        max_weight_ratio: Largest weight of a node as a multiple of the median one.
    """

    strategy: str
    parameters: dict[str, Any]
    fraction: float | None
    quorum: int
    round_timeout: timedelta | None
    max_update_ratio: float
    max_weight_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNoise:
    """Noise that each node adds to its own update.

    Attributes:
        clipping_norm: L2 norm that the update is clipped to.
        noise_multiplier: Standard deviation of the noise as a multiple of twice that norm.
    """

    clipping_norm: float
    noise_multiplier: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What a run may spend of its nodes' privacy.

    Attributes:
        epsilon_budget: Most epsilon; None for any.
        delta: Of every epsilon of the run.
        local_noise: Noise of the nodes, or None.
    """

    epsilon_budget: float | None
    delta: float
    local_noise: LocalNoise | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonPolicy:
    """When a round may start.

    Attributes:
        zone: `zones/{zone}` that counts, or empty for those of the nodes and the coordinator.
        max_intensity_g_per_kwh: Threshold; None for the zone's own.
        max_wait: Longest wait before one round.
        percentile: Of the last seven days, instead of a threshold, or None.
        forecast: True for waiting only where it saves enough, instead of a threshold.
        round_duration: Time that a round takes, as told for the forecast, or None.
        min_saving: Least saving that is worth a wait, as told for the forecast, or None.
        max_total_wait: Longest wait of all rounds together, or None.
    """

    zone: str
    max_intensity_g_per_kwh: float | None
    max_wait: timedelta | None
    percentile: float | None
    forecast: bool
    round_duration: timedelta | None
    min_saving: float | None
    max_total_wait: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Who paused a run.

    Attributes:
        requester: Subject of who asked for it.
        request_time: When.
        start_time: Since when nothing of the run runs; None while the round under way is being finished.
        immediate: True when that round was to be given up.
    """

    requester: str
    request_time: datetime | None
    start_time: datetime | None
    immediate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One federated training, from its creation to its published model.

    Attributes:
        name: `trainingRuns/{run}`.
        app: Name of the training app.
        state: `PENDING`, `WAITING_FOR_NODES`, `WAITING_FOR_GRID`, `RUNNING`, `PAUSING`, `PAUSED`,
            `PUBLISHING`, `SUCCEEDED`, `FAILED`, `CANCELLING` or `CANCELLED`.
        state_message: Why it stands there, in one sentence.
        round_reports: The rounds so far, oldest first; empty in events.
        model: `models/{model}` that the result is published as, or empty.
        model_version: `models/{model}/versions/{version}` that was published, or empty.
        trace_id: W3C trace id of the run; it stands in the logs of every service that the run touched.
        engine: Where the nodes are: `DEPLOYMENT` (at the sites) or `IN_PROCESS` (beside the coordinator).
        virtual_nodes: Nodes of a run in process; 0 for a run at the sites.
        seed: Of what the run draws, or None.
        retention: How long it is kept once it has ended; None for ever.
        expire_time: When it may be removed; None while it has not ended.
        node_zones: Zones whose nodes take part; empty for any.
        node_labels: Labels that nodes have which take part.
        evaluation: Who measures: `FEDERATED`, `CENTRAL` or `NONE`; `UNSPECIFIED` is as the app has it.
        latest_start_time: When a round that waits for the grid starts at the latest; else None.
        pause: Who paused it and since when, in the states `PAUSING` and `PAUSED`; else None.
    """

    name: str
    app: str
    rounds: int
    min_nodes: int
    state: str
    state_message: str
    completed_rounds: int
    round_reports: tuple[Round, ...]
    app_config: dict[str, Any]
    model: str
    model_version: str
    app_sha256: str
    trace_id: str
    creator: str
    create_time: datetime | None
    end_time: datetime | None
    engine: str
    virtual_nodes: int
    seed: int | None
    aggregation: Aggregation
    carbon_policy: CarbonPolicy
    privacy: Privacy
    pause: Pause | None
    latest_start_time: datetime | None
    evaluation: str = "UNSPECIFIED"
    node_zones: tuple[str, ...] = ()
    retention: timedelta | None = None
    expire_time: datetime | None = None
    node_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        return self.state == "SUCCEEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """What happened in a run.

    Attributes:
        kind: `state` and `end` come with `run`, `round` with `round`; `end` is the last event.
        resume_token: Token to go on after this event, for `watch` of another client.
    """

    kind: str
    run: TrainingRun | None
    round: Round | None
    time: datetime | None
    resume_token: str


def read_answer(answer: pb.GetTrainingRunResponse) -> TrainingRun:
    return _read_run(answer.training_run)


def read_runs(answer: pb.ListTrainingRunsResponse) -> Page[TrainingRun]:
    return Page([_read_run(run) for run in answer.training_runs], answer.next_page_token)


def read_step(message: pb.WatchTrainingRunResponse) -> Step[RunEvent]:
    kind = message.WhichOneof("event")
    if kind == "reconnect":
        return Step(resume_token=message.resume_token, reconnect=True)
    if kind is None:
        return Step(resume_token=message.resume_token)  # an event of a newer server
    run = {"state_change": message.state_change, "end": message.end}.get(kind)
    event = RunEvent(
        kind="state" if kind == "state_change" else kind,
        run=_read_run(run) if run is not None else None,
        round=read_round(message.round) if kind == "round" else None,
        time=moment(message, "event_time"),
        resume_token=message.resume_token,
    )
    return Step(event, message.resume_token, last=kind == "end")


def _read_run(run: pb.TrainingRun) -> TrainingRun:
    return TrainingRun(
        name=run.name,
        app=run.app,
        rounds=run.rounds,
        min_nodes=run.min_nodes,
        state=enum_name(pb.TrainingRun.State, run.state),
        state_message=run.state_message,
        completed_rounds=run.completed_rounds,
        round_reports=tuple(read_round(report) for report in run.round_reports),
        app_config=unstruct(run.app_config),
        model=run.model,
        model_version=run.model_version,
        app_sha256=run.app_sha256,
        trace_id=run.trace_id,
        creator=run.creator,
        create_time=moment(run, "create_time"),
        end_time=moment(run, "end_time"),
        engine=enum_name(pb.TrainingRun.Engine, run.engine),
        virtual_nodes=run.virtual_nodes,
        seed=known(run, "seed"),
        aggregation=_read_aggregation(run.aggregation),
        carbon_policy=_read_policy(run.carbon_policy),
        privacy=_read_privacy(run.privacy),
        latest_start_time=moment(run, "latest_start_time"),
        evaluation=enum_name(pb.TrainingRun.Evaluation, run.evaluation),
        retention=span(run, "retention"),
        expire_time=moment(run, "expire_time"),
        node_zones=tuple(run.node_selector.zones),
        node_labels=dict(run.node_selector.labels),
        pause=_read_pause(run.pause) if run.HasField("pause") else None,
    )


def _read_pause(message: pb.Pause) -> Pause:
    return Pause(
        requester=message.requester,
        request_time=moment(message, "request_time"),
        start_time=moment(message, "start_time"),
        immediate=message.immediate,
    )


def _read_aggregation(message: pb.Aggregation) -> Aggregation:
    return Aggregation(
        strategy=message.strategy,
        parameters=unstruct(message.parameters),
        fraction=known(message, "fraction"),
        quorum=message.quorum,
        round_timeout=span(message, "round_timeout"),
        max_update_ratio=message.max_update_ratio,
        max_weight_ratio=message.max_weight_ratio,
    )


def _read_privacy(message: pb.Privacy) -> Privacy:
    noise = message.local_noise
    local = LocalNoise(clipping_norm=noise.clipping_norm, noise_multiplier=noise.noise_multiplier)
    return Privacy(
        epsilon_budget=known(message, "epsilon_budget"),
        delta=message.delta,
        local_noise=local if message.HasField("local_noise") else None,
    )


def _read_policy(message: pb.CarbonPolicy) -> CarbonPolicy:
    return CarbonPolicy(
        zone=message.zone,
        max_intensity_g_per_kwh=known(message, "max_intensity_g_per_kwh"),
        max_wait=span(message, "max_wait"),
        percentile=known(message, "percentile"),
        forecast=message.HasField("forecast"),
        round_duration=span(message.forecast, "round_duration"),
        min_saving=known(message.forecast, "min_saving"),
        max_total_wait=span(message, "max_total_wait"),
    )
