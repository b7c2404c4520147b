"""Federated training runs: starting them and following them to the end."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, Step, Watch, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import (
    duration,
    enum_name,
    moment,
    optional_resource,
    resource,
    span,
    struct,
    unstruct,
)
from aegis_client.errors import AegisClientError

CREATE: Final = method(pb, "TrainingService", "CreateTrainingRun", pb.CreateTrainingRunResponse)
GET: Final = method(pb, "TrainingService", "GetTrainingRun", pb.GetTrainingRunResponse)
LIST: Final = method(pb, "TrainingService", "ListTrainingRuns", pb.ListTrainingRunsResponse)
CANCEL: Final = method(pb, "TrainingService", "CancelTrainingRun", pb.CancelTrainingRunResponse)
WATCH: Final = method(pb, "TrainingService", "WatchTrainingRun", pb.WatchTrainingRunResponse)

ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the carbon gate said before a round.

    Attributes:
        clean: True when the intensity was low enough; false when the wait was over or there was no data.
        reason: One word, for example `BELOW_THRESHOLD`, `MAX_WAIT` or `CARBON_UNAVAILABLE`.
        intensity_g_per_kwh: At the start of the round; None when there was none.
        threshold_g_per_kwh: None when the carbon service did not answer.
        source: Provider of the intensity, or empty.
        waited: Time that the round waited for the grid.
    """

    clean: bool
    reason: str
    intensity_g_per_kwh: float | None
    threshold_g_per_kwh: float | None
    source: str
    waited: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailure:
    """One node's failure in a round; `node` is empty when it could not be named."""

    node: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The report of one round.

    Attributes:
        number: 1 and up.
        gate: What the carbon gate said, or None when it did not say anything.
        metrics: By name, for example `accuracy` (0 to 1) on the server's test set.
        node_results: Nodes that answered.
        node_failures: Nodes that failed.
        duration: Time from the opening of the gate to the aggregated model.
        checkpoint_sha256: Of the checkpoint, 64 lower-case hex digits.
    """

    number: int
    gate: Gate | None
    metrics: dict[str, float]
    node_results: int
    node_failures: tuple[NodeFailure, ...]
    duration: timedelta | None
    checkpoint_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One federated training, from its creation to its published model.

    Attributes:
        name: `trainingRuns/{run}`.
        app: Name of the training app.
        state: `PENDING`, `WAITING_FOR_NODES`, `WAITING_FOR_GRID`, `RUNNING`, `PUBLISHING`, `SUCCEEDED`,
            `FAILED`, `CANCELLING` or `CANCELLED`.
        state_message: Why it stands there, in one sentence.
        round_reports: The rounds so far, oldest first; empty in events.
        model: `models/{model}` that the result is published as, or empty.
        model_version: `models/{model}/versions/{version}` that was published, or empty.
        trace_id: W3C trace id of the run; it stands in the logs of every service that the run touched.
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


def _create(
    app: str,
    *,
    rounds: int = 0,
    min_nodes: int = 0,
    model: str = "",
    zone: str = "",
    max_intensity: float | None = None,
    max_wait: float | timedelta | None = None,
    config: Mapping[str, Any] | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Operation[TrainingRun]:
    """Create a run; it starts as soon as enough nodes are online and the grid allows.

    Args:
        app: Name of an approved training app, for example `digits`.
        rounds: 1 to 10000; 0 means the coordinator's default.
        min_nodes: Nodes that a round needs, 1 to 10000; 0 means the coordinator's default.
        model: `digits` or `models/digits` to publish the result as; if empty, nothing is published.
        zone: Grid zone that counts; if empty, the carbon service's default.
        max_intensity: Highest intensity at which a round starts, in gCO2e/kWh; None means the zone's own.
        max_wait: Longest wait before one round, in seconds, up to 7 days; None means 1 h.
        config: Values for the app's own configuration.
        request_id: Idempotency key, a UUID: the same one again returns the same run. If empty, a new one.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_APP`.
        InvalidArgument: Reason `INVALID_RUN_CONFIG`.
        AlreadyExists: Reason `REQUEST_ID_REUSED`.
        FailedPrecondition: Reason `APP_NOT_APPROVED`.
    """
    run = pb.TrainingRun(
        app=app,
        rounds=rounds,
        min_nodes=min_nodes,
        carbon_policy=pb.CarbonPolicy(
            zone=optional_resource("zones", zone),
            max_intensity_g_per_kwh=max_intensity,
            max_wait=duration(max_wait),
        ),
        app_config=struct(config, "config") if config else None,
        model=optional_resource("models", model),
    )
    request = pb.CreateTrainingRunRequest(training_run=run, request_id=request_id or str(uuid.uuid4()))
    return Operation(CREATE, request, _read_answer, timeout)


def _get(name: str, *, timeout: float | None = None) -> Operation[TrainingRun]:
    """Return one run with its rounds so far.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
    """
    return Operation(
        GET, pb.GetTrainingRunRequest(name=resource("trainingRuns", name)), _read_answer, timeout
    )


def _list(*, page_size: int = 0) -> Listing[TrainingRun]:
    """Iterate over the caller's runs, newest first."""

    def fetch(token: str) -> Operation[Page[TrainingRun]]:
        request = pb.ListTrainingRunsRequest(page_size=page_size, page_token=token)
        return Operation(LIST, request, _read_runs)

    return Listing(fetch)


def _cancel(name: str, *, timeout: float | None = None) -> Operation[TrainingRun]:
    """Stop a run; one that has ended stays as it is and is returned.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
    """
    request = pb.CancelTrainingRunRequest(name=resource("trainingRuns", name))
    return Operation(CANCEL, request, _read_answer, timeout)


def _watch(name: str, *, resume_token: str = "", timeout: float | None = None) -> Watch[RunEvent]:
    """Iterate over what happens in a run, until it has ended; broken streams are resumed unseen.

    Args:
        name: `trainingRuns/{run}`, or its last part.
        resume_token: Where to go on; if empty, the first event is the run as it stands.
        timeout: Deadline of the whole watch, in seconds; None means none.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
        InvalidArgument: Reason `INVALID_RESUME_TOKEN`.
        DeadlineExceeded: The `timeout` is over.
    """
    run = resource("trainingRuns", name)

    def request(token: str) -> pb.WatchTrainingRunRequest:
        return pb.WatchTrainingRunRequest(name=run, resume_token=token)

    return Watch(WATCH, request, _read_step, resume_token, timeout)


def _read_answer(answer: pb.GetTrainingRunResponse) -> TrainingRun:
    return _read_run(answer.training_run)


def _read_runs(answer: pb.ListTrainingRunsResponse) -> Page[TrainingRun]:
    return Page([_read_run(run) for run in answer.training_runs], answer.next_page_token)


def _read_step(message: pb.WatchTrainingRunResponse) -> Step[RunEvent]:
    kind = message.WhichOneof("event")
    if kind == "reconnect":
        return Step(resume_token=message.resume_token, reconnect=True)
    if kind is None:
        return Step(resume_token=message.resume_token)  # an event of a newer server
    run = {"state_change": message.state_change, "end": message.end}.get(kind)
    event = RunEvent(
        kind="state" if kind == "state_change" else kind,
        run=_read_run(run) if run is not None else None,
        round=_read_round(message.round) if kind == "round" else None,
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
        round_reports=tuple(_read_round(report) for report in run.round_reports),
        app_config=unstruct(run.app_config),
        model=run.model,
        model_version=run.model_version,
        app_sha256=run.app_sha256,
        trace_id=run.trace_id,
        creator=run.creator,
        create_time=moment(run, "create_time"),
        end_time=moment(run, "end_time"),
    )


def _read_round(report: pb.Round) -> Round:
    return Round(
        number=report.number,
        gate=_read_gate(report.gate) if report.HasField("gate") else None,
        metrics=dict(report.metrics),
        node_results=report.node_results,
        node_failures=tuple(
            NodeFailure(node=failure.node, message=failure.message) for failure in report.node_failures
        ),
        duration=span(report, "duration"),
        checkpoint_sha256=report.checkpoint_sha256,
    )


def _read_gate(gate: pb.GateDecision) -> Gate:
    known = gate.HasField("intensity_g_per_kwh"), gate.HasField("threshold_g_per_kwh")
    return Gate(
        clean=gate.clean,
        reason=gate.reason,
        intensity_g_per_kwh=gate.intensity_g_per_kwh if known[0] else None,
        threshold_g_per_kwh=gate.threshold_g_per_kwh if known[1] else None,
        source=gate.source,
        waited=span(gate, "waited"),
    )


class TrainingSurface:
    create = unary(_create)
    get = unary(_get)
    list = stream(_list)
    cancel = unary(_cancel)
    watch = stream(_watch)


class Training(TrainingSurface, SyncApi):
    """`Client.training`."""

    def wait(self, name: str, *, timeout: float | None = None) -> TrainingRun:
        """Follow a run to its end and return it; see `watch` for errors."""
        for event in self.watch(name, timeout=timeout):
            if event.kind == "end" and event.run:
                return event.run
        raise AegisClientError(f"the watch of {name} ended without the run's end")


class AsyncTraining(TrainingSurface, AsyncApi):
    """`AsyncClient.training`."""

    async def wait(  # the same surface as `Client`
        self,
        name: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> TrainingRun:
        """Follow a run to its end and return it; see `watch` for errors."""
        async for event in self.watch(name, timeout=timeout):
            if event.kind == "end" and event.run:
                return event.run
        raise AegisClientError(f"the watch of {name} ended without the run's end")
