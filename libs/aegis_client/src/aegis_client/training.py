"""Federated training runs: starting them and following them to the end."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, Step, Watch, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import duration, enum_value, optional_resource, resource, struct
from aegis_client.errors import AegisClientError
from aegis_client.round_forms import ModelPiece, Round, read_rounds
from aegis_client.training_forms import (
    LocalNoise,
    RunEvent,
    TrainingRun,
    read_answer,
    read_runs,
    read_step,
)

CREATE: Final = method(pb, "TrainingService", "CreateTrainingRun", pb.CreateTrainingRunResponse)
GET: Final = method(pb, "TrainingService", "GetTrainingRun", pb.GetTrainingRunResponse)
LIST: Final = method(pb, "TrainingService", "ListTrainingRuns", pb.ListTrainingRunsResponse)
ROUNDS: Final = method(pb, "TrainingService", "ListRounds", pb.ListRoundsResponse)
DOWNLOAD: Final = method(pb, "TrainingService", "DownloadModel", pb.DownloadModelResponse)
CANCEL: Final = method(pb, "TrainingService", "CancelTrainingRun", pb.CancelTrainingRunResponse)
PAUSE: Final = method(pb, "TrainingService", "PauseTrainingRun", pb.PauseTrainingRunResponse)
RESUME: Final = method(pb, "TrainingService", "ResumeTrainingRun", pb.ResumeTrainingRunResponse)
WATCH: Final = method(pb, "TrainingService", "WatchTrainingRun", pb.WatchTrainingRunResponse)


def _create(
    app: str,
    *,
    rounds: int = 0,
    min_nodes: int = 0,
    model: str = "",
    strategy: str = "",
    parameters: Mapping[str, Any] | None = None,
    fraction: float | None = None,
    quorum: int = 0,
    round_timeout: float | timedelta | None = None,
    max_update_ratio: float | None = None,
    max_weight_ratio: float | None = None,
    seed: int | None = None,
    epsilon_budget: float | None = None,
    delta: float | None = None,
    local_noise: LocalNoise | None = None,
    engine: str = "",
    virtual_nodes: int = 0,
    evaluation: str = "",
    node_zones: Sequence[str] = (),
    node_labels: Mapping[str, str] | None = None,
    retention: float | timedelta | None = None,
    zone: str = "",
    max_intensity: float | None = None,
    max_wait: float | timedelta | None = None,
    percentile: float | None = None,
    forecast: bool = False,
    round_duration: float | timedelta | None = None,
    min_saving: float | None = None,
    max_total_wait: float | timedelta | None = None,
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
        strategy: One of Flower's, for example `FedMedian`, or `module:Class` of the app's own; if empty, the
            app's choice.
        parameters: Its parameters by their names in Flower, for example `{"num_malicious_nodes": 1}`.
        fraction: Part of the online nodes that a round trains on, above 0 to 1; None means all.
        quorum: Usable results that a round needs; 0 means half of the nodes that are asked, rounded up.
        round_timeout: How long a round waits for results, in seconds, 1 to 43200; None means the app's own.
        max_update_ratio: Drop an update that is more than so many times as far off as the median one; 0
            drops none, None means 10.
        max_weight_ratio: A node weighs at most so many times the median; None means 10.
        seed: Makes what the run draws repeat; None means that runs differ.
        epsilon_budget: Most epsilon that the run may spend, above 0 to 1000; None means any.
        delta: The delta of every epsilon of the run, above 0 to 0.1; None means 0.00001.
        local_noise: Noise that each node adds to its own update; None means none.
        engine: `deployment` (nodes at the sites) or `in_process` (virtual nodes beside the coordinator); if
            empty, at the sites.
        virtual_nodes: Nodes of a run in process, up to 10000; 0 means `min_nodes`.
        evaluation: Who measures the model after each round: `federated` (the nodes), `central` (the app's
            server part) or `none`; if empty, as the app has it.
        node_zones: Only nodes in one of these zones take part; if empty, those of any.
        node_labels: Only nodes with all of these labels take part.
        retention: How long the run is kept once it has ended, in seconds, 60 to 315360000; None means the
            coordinator's default. What it published stays.
        zone: Grid zone that counts; if empty, those of the nodes and the coordinator, by their power.
        max_intensity: Highest intensity at which a round starts, in gCO2e/kWh; None means the zone's own.
        max_wait: Longest wait before one round, in seconds, up to 7 days; None means 1 h.
        percentile: Start at or below this percentile of the last seven days, above 0 to 100, instead.
        forecast: Start unless a window within `max_wait` is cleaner by enough, instead.
        round_duration: For the forecast: time that a round takes, in seconds; None means as long as before.
        min_saving: For the forecast: least saving that is worth a wait, 0 to 1; None means 0.05.
        max_total_wait: Longest wait of all rounds together, in seconds; None means no such limit.
        config: Values for the app's own configuration.
        request_id: Idempotency key, a UUID: the same one again returns the same run. If empty, a new one.
        timeout: Deadline of the call, in seconds.

    Raises:
        UsageError: A value cannot be sent, or engine or evaluation is none of those.
        NotFound: Reason `UNKNOWN_APP`, or `UNKNOWN_ZONE` for the zone of its carbon policy.
        InvalidArgument: Reason `INVALID_RUN_CONFIG`; `violations` names each field.
        AlreadyExists: Reason `REQUEST_ID_REUSED`.
        FailedPrecondition: Reasons `APP_NOT_APPROVED`, `ENGINE_NOT_ENABLED`.
    """
    run = pb.TrainingRun(
        app=app,
        rounds=rounds,
        min_nodes=min_nodes,
        carbon_policy=pb.CarbonPolicy(
            zone=optional_resource("zones", zone),
            max_intensity_g_per_kwh=max_intensity,
            max_wait=duration(max_wait),
            percentile=percentile,
            forecast=(
                pb.RoundForecast(round_duration=duration(round_duration), min_saving=min_saving)
                if forecast or round_duration is not None or min_saving is not None
                else None
            ),
            max_total_wait=duration(max_total_wait),
        ),
        app_config=struct(config, "config") if config else None,
        model=optional_resource("models", model),
        engine=_engine(engine),
        virtual_nodes=virtual_nodes,
        aggregation=pb.Aggregation(
            strategy=strategy,
            parameters=struct(parameters, "parameters") if parameters else None,
            fraction=fraction,
            quorum=quorum,
            round_timeout=duration(round_timeout),
            max_update_ratio=max_update_ratio,
            max_weight_ratio=max_weight_ratio,
        ),
        seed=seed,
        privacy=_privacy(epsilon_budget, delta, local_noise),
        evaluation=_evaluation(evaluation),
        retention=duration(retention),
        node_selector=(
            pb.NodeSelector(zones=[resource("zones", one) for one in node_zones], labels=node_labels)
            if node_zones or node_labels
            else None
        ),
    )
    request = pb.CreateTrainingRunRequest(training_run=run, request_id=request_id or str(uuid.uuid4()))
    return Operation(CREATE, request, read_answer, timeout)


def _privacy(budget: float | None, delta: float | None, local: LocalNoise | None) -> pb.Privacy | None:
    if budget is None and delta is None and local is None:
        return None
    message = pb.Privacy(epsilon_budget=budget, delta=delta)
    if local is not None:
        message.local_noise.clipping_norm = local.clipping_norm
        message.local_noise.noise_multiplier = local.noise_multiplier
    return message


def _engine(name: str) -> pb.TrainingRun.Engine.ValueType:
    if not name:
        return pb.TrainingRun.ENGINE_UNSPECIFIED
    return pb.TrainingRun.Engine.ValueType(enum_value(pb.TrainingRun.Engine, name, "engine"))


def _evaluation(name: str) -> pb.TrainingRun.Evaluation.ValueType:
    if not name:
        return pb.TrainingRun.EVALUATION_UNSPECIFIED
    return pb.TrainingRun.Evaluation.ValueType(enum_value(pb.TrainingRun.Evaluation, name, "evaluation"))


def _get(name: str, *, timeout: float | None = None) -> Operation[TrainingRun]:
    """Return one run with its rounds so far.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
    """
    return Operation(GET, pb.GetTrainingRunRequest(name=resource("trainingRuns", name)), read_answer, timeout)


def _list(*, page_size: int = 0) -> Listing[TrainingRun]:
    """Iterate over the caller's runs, newest first."""

    def fetch(token: str) -> Operation[Page[TrainingRun]]:
        request = pb.ListTrainingRunsRequest(page_size=page_size, page_token=token)
        return Operation(LIST, request, read_runs)

    return Listing(fetch)


def _rounds(name: str, *, page_size: int = 0) -> Listing[Round]:
    """Iterate over the rounds of a run with all that is known of them, oldest first.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
    """
    run = resource("trainingRuns", name)

    def fetch(token: str) -> Operation[Page[Round]]:
        request = pb.ListRoundsRequest(parent=run, page_size=page_size, page_token=token)
        return Operation(ROUNDS, request, read_rounds)

    return Listing(fetch)


def _download(
    name: str,
    *,
    round: int = 0,  # noqa: A002  # as the field is called
    format: str = "npz",  # noqa: A002
    timeout: float | None = None,
) -> Watch[ModelPiece]:
    """Iterate over the pieces of a run's model; a break is made up for from where it was.

    Args:
        name: `trainingRuns/{run}`, or its last part.
        round: Number of the round whose parameters are wanted; 0 means the newest.
        format: `npz`, the parameters by name, or `onnx`, what the app exported after the last round.
        timeout: Deadline of the whole download, in seconds; None means none.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`, or `MODEL_NOT_KEPT`, which names the rounds that are kept.
        UsageError: The format is neither of the two.
    """
    kind = pb.DownloadModelRequest.Format.ValueType(
        enum_value(pb.DownloadModelRequest.Format, format, "format")
    )
    run = resource("trainingRuns", name)
    seen = {"offset": 0, "round": round}

    def request(resume_token: str) -> pb.DownloadModelRequest:
        # After a break the newest round may be another one.
        offset = int(resume_token or 0)
        return pb.DownloadModelRequest(name=run, round=seen["round"], format=kind, offset=offset)

    def read(message: pb.DownloadModelResponse) -> Step[ModelPiece]:
        data = message.content.data
        seen["offset"] += len(data)
        seen["round"] = message.round if kind != pb.DownloadModelRequest.FORMAT_ONNX else 0
        piece = ModelPiece(data=data, total_bytes=message.total_bytes, round=message.round)
        last = not data or seen["offset"] >= message.total_bytes
        return Step(event=piece, resume_token=str(seen["offset"]), last=last)

    return Watch(DOWNLOAD, request, read, timeout=timeout)


def _cancel(name: str, *, timeout: float | None = None) -> Operation[TrainingRun]:
    """Stop a run; one that has ended stays as it is and is returned.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
    """
    request = pb.CancelTrainingRunRequest(name=resource("trainingRuns", name))
    return Operation(CANCEL, request, read_answer, timeout)


def _pause(name: str, *, immediate: bool = False, timeout: float | None = None) -> Operation[TrainingRun]:
    """Pause a run until it is resumed; the round under way is finished first.

    Args:
        name: `trainingRuns/{run}`, or its last part.
        immediate: Give the round under way up; it is trained again later.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
        FailedPrecondition: Reason `RUN_NOT_PAUSABLE`: it has ended, is being stopped, or trains no more.
    """
    request = pb.PauseTrainingRunRequest(name=resource("trainingRuns", name), immediate=immediate)
    return Operation(PAUSE, request, read_answer, timeout)


def _resume(name: str, *, timeout: float | None = None) -> Operation[TrainingRun]:
    """Let a run that is paused or has failed go on from its newest checkpoint.

    Raises:
        NotFound: Reason `UNKNOWN_TRAINING_RUN`.
        FailedPrecondition: Reason `RUN_NOT_RESUMABLE`: it has succeeded, or is or was stopped.
    """
    request = pb.ResumeTrainingRunRequest(name=resource("trainingRuns", name))
    return Operation(RESUME, request, read_answer, timeout)


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

    return Watch(WATCH, request, read_step, resume_token, timeout)


class TrainingSurface:
    create = unary(_create)
    get = unary(_get)
    list = stream(_list)
    rounds = stream(_rounds)
    download = stream(_download)
    cancel = unary(_cancel)
    pause = unary(_pause)
    resume = unary(_resume)
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
