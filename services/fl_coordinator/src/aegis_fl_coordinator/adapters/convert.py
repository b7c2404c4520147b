"""Between the messages of aegis.fl.v1 and the domain."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from aegis.fl.v1 import node_service_pb2 as node_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.rpc.times import duration, timestamp
from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.evaluation import Evaluation
from aegis_fl_coordinator.domain.gate import DEFAULT_MAX_WAIT, CarbonPolicy, RoundForecast
from aegis_fl_coordinator.domain.nodes import NodeSelector, NodeStatus
from aegis_fl_coordinator.domain.privacy import DELTA, LocalNoise, Privacy
from aegis_fl_coordinator.domain.rounds import (
    Energy,
    GateDecision,
    NodeFailure,
    NodeOutcome,
    ResultState,
    RoundReport,
)
from aegis_fl_coordinator.domain.run import ConfigValue, EngineKind, Pause, RunSpec, TrainingRun
from aegis_fl_coordinator.domain.strategies import Aggregation

_EVALUATIONS: Final = {
    pb.TrainingRun.EVALUATION_UNSPECIFIED: Evaluation.APP,
    pb.TrainingRun.EVALUATION_FEDERATED: Evaluation.FEDERATED,
    pb.TrainingRun.EVALUATION_CENTRAL: Evaluation.CENTRAL,
    pb.TrainingRun.EVALUATION_NONE: Evaluation.NONE,
}
_EVALUATION_VALUES: Final = {evaluation: value for value, evaluation in _EVALUATIONS.items()}


def spec_from(message: pb.TrainingRun) -> RunSpec:
    """Return what a request asks for.

    Raises:
        InvalidRunConfig: A value of `app_config` or the parameters is no string, number or bool.
    """
    return RunSpec(
        app=message.app,
        rounds=message.rounds,
        min_nodes=message.min_nodes,
        carbon=_policy_from(message.carbon_policy),
        config=_config_from(message.app_config, "app_config"),
        model=message.model,
        engine=(
            EngineKind.IN_PROCESS
            if message.engine == pb.TrainingRun.ENGINE_IN_PROCESS
            else EngineKind.DEPLOYMENT
        ),
        virtual_nodes=message.virtual_nodes,
        aggregation=_aggregation_from(message.aggregation),
        seed=message.seed if message.HasField("seed") else None,
        privacy=_privacy_from(message.privacy),
        evaluation=_EVALUATIONS[message.evaluation],
        retention=_span(message, "retention"),
        nodes=NodeSelector(tuple(message.node_selector.zones), dict(message.node_selector.labels)),
    )


def _privacy_from(message: pb.Privacy) -> Privacy:
    noise = message.local_noise
    return Privacy(
        epsilon_budget=message.epsilon_budget if message.HasField("epsilon_budget") else None,
        delta=message.delta if message.HasField("delta") else DELTA,
        local=(
            LocalNoise(noise.clipping_norm, noise.noise_multiplier)
            if message.HasField("local_noise")
            else None
        ),
    )


def _aggregation_from(message: pb.Aggregation) -> Aggregation:
    ratios = {
        name: getattr(message, name)
        for name in ("max_update_ratio", "max_weight_ratio")
        if message.HasField(name)
    }
    has_timeout = message.HasField("round_timeout")
    return Aggregation(
        strategy=message.strategy,
        parameters=_config_from(message.parameters, "aggregation.parameters"),
        fraction=message.fraction if message.HasField("fraction") else None,
        quorum=message.quorum,
        round_timeout=message.round_timeout.ToTimedelta().total_seconds() if has_timeout else None,
        **ratios,
    )


def _config_from(struct: Struct, field: str) -> dict[str, ConfigValue]:
    config: dict[str, ConfigValue] = {}
    for key, value in json_format.MessageToDict(struct).items():
        if not isinstance(value, bool | int | float | str):
            path = f"training_run.{field}.{key}"
            text = "must be a string, a number or a bool"
            raise InvalidRunConfig(f"{field}: {key} {text}", violations={path: text})
        config[key] = value
    return config


def asked(message: pb.TrainingRun) -> str:
    """Return the canonical text of what a caller may set in a run."""
    asked_for = pb.TrainingRun()
    for field in ("app", "rounds", "min_nodes", "model", "engine", "virtual_nodes", "evaluation"):
        setattr(asked_for, field, getattr(message, field))
    if message.HasField("seed"):
        asked_for.seed = message.seed
    if message.HasField("aggregation"):
        asked_for.aggregation.CopyFrom(message.aggregation)
    if message.HasField("retention"):
        asked_for.retention.CopyFrom(message.retention)
    if message.HasField("node_selector"):
        asked_for.node_selector.CopyFrom(message.node_selector)
    if message.HasField("privacy"):
        asked_for.privacy.CopyFrom(message.privacy)
    asked_for.carbon_policy.CopyFrom(message.carbon_policy)
    asked_for.app_config.CopyFrom(message.app_config)
    return json_format.MessageToJson(asked_for, sort_keys=True, indent=None)


def run_message(run: TrainingRun, *, with_rounds: bool = True) -> pb.TrainingRun:
    spec = run.spec
    message = pb.TrainingRun(
        name=run.name,
        app=spec.app,
        rounds=spec.rounds,
        min_nodes=spec.min_nodes,
        carbon_policy=_policy_message(spec.carbon),
        latest_start_time=timestamp(run.latest_start),
        model=spec.model,
        state=pb.TrainingRun.State.Value(f"STATE_{run.state.name}"),
        state_message=run.message,
        completed_rounds=len(run.rounds),
        round_reports=[round_message(report) for report in run.rounds] if with_rounds else [],
        create_time=timestamp(run.create_time),
        end_time=timestamp(run.end_time),
        model_version=run.model_version,
        app_sha256=run.app_sha256,
        trace_id=run.trace_id,
        creator=run.creator,
        engine=pb.TrainingRun.Engine.Value(f"ENGINE_{spec.engine.name}"),
        virtual_nodes=spec.virtual_nodes,
        aggregation=_aggregation_message(spec.aggregation),
        seed=spec.seed,
        privacy=_privacy_message(spec.privacy),
        evaluation=_EVALUATION_VALUES[spec.evaluation],
        retention=None if spec.retention is None else duration(spec.retention),
        expire_time=timestamp(run.expire_time),
        node_selector=_selector_message(spec.nodes) if spec.nodes else None,
        pause=_pause_message(run.pause) if run.pause else None,
    )
    if spec.config:
        message.app_config.update(dict(spec.config))
    return message


def _selector_message(selector: NodeSelector) -> pb.NodeSelector:
    return pb.NodeSelector(zones=selector.zones, labels=selector.labels)


def _policy_from(message: pb.CarbonPolicy) -> CarbonPolicy:
    forecast = message.forecast
    return CarbonPolicy(
        zone=message.zone,
        max_intensity=_given(message, "max_intensity_g_per_kwh"),
        max_wait=message.max_wait.ToTimedelta() if message.HasField("max_wait") else DEFAULT_MAX_WAIT,
        percentile=_given(message, "percentile"),
        forecast=(
            RoundForecast(_span(forecast, "round_duration"), _given(forecast, "min_saving"))
            if message.HasField("forecast")
            else None
        ),
        max_total_wait=_span(message, "max_total_wait"),
    )


def _given(message: Message, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


def _span(message: Message, field: str) -> timedelta | None:
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None


def _policy_message(policy: CarbonPolicy) -> pb.CarbonPolicy:
    forecast, total = policy.forecast, policy.max_total_wait
    message = pb.CarbonPolicy(
        zone=policy.zone,
        max_intensity_g_per_kwh=policy.max_intensity,
        max_wait=duration(policy.max_wait),
        percentile=policy.percentile,
        max_total_wait=None if total is None else duration(total),
    )
    if forecast is not None:
        took = forecast.duration
        message.forecast.CopyFrom(
            pb.RoundForecast(
                round_duration=None if took is None else duration(took), min_saving=forecast.min_saving
            )
        )
    return message


def _pause_message(pause: Pause) -> pb.Pause:
    return pb.Pause(
        requester=pause.requester,
        request_time=timestamp(pause.asked),
        start_time=timestamp(pause.since),
        immediate=pause.immediate,
    )


def _aggregation_message(aggregation: Aggregation) -> pb.Aggregation:
    timeout = aggregation.round_timeout
    message = pb.Aggregation(
        strategy=aggregation.strategy,
        fraction=aggregation.fraction,
        quorum=aggregation.quorum,
        round_timeout=None if timeout is None else duration(timedelta(seconds=timeout)),
        max_update_ratio=aggregation.max_update_ratio,
        max_weight_ratio=aggregation.max_weight_ratio,
    )
    if aggregation.parameters:
        message.parameters.update(dict(aggregation.parameters))
    return message


def _privacy_message(privacy: Privacy) -> pb.Privacy:
    message = pb.Privacy(epsilon_budget=privacy.epsilon_budget, delta=privacy.delta)
    if privacy.local is not None:
        message.local_noise.clipping_norm = privacy.local.clipping_norm
        message.local_noise.noise_multiplier = privacy.local.noise_multiplier
    return message


def round_message(report: RoundReport) -> pb.Round:
    return pb.Round(
        number=report.number,
        gate=None if report.gate is None else _gate_message(report.gate),
        metrics=dict(report.metrics),
        node_results=report.node_results,
        node_failures=[pb.NodeFailure(node=one.node, message=one.message) for one in report.node_failures],
        duration=duration(report.duration),
        checkpoint_sha256=report.checkpoint_sha256,
        capped_nodes=report.capped_nodes,
        epsilon=report.epsilon,
        delta=report.delta,
        noisy_releases=report.noisy_releases,
        start_time=timestamp(report.started),
        end_time=timestamp(report.ended),
        attempt=report.attempt,
        node_outcomes=map(_outcome_message, report.outcomes),
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        cpu_seconds=report.cpu_s,
        energy=_energy_message(report.energy) if report.energy else None,
        unmetered_nodes=report.unmetered_nodes,
    )


def _energy_message(energy: Energy) -> pb.RoundEnergy:
    return pb.RoundEnergy(
        kwh=energy.kwh,
        kwh_low=energy.kwh_low,
        kwh_high=energy.kwh_high,
        grams=energy.grams,
        estimated=energy.estimated,
    )


def _outcome_message(outcome: NodeOutcome) -> pb.NodeOutcome:
    return pb.NodeOutcome(
        node=outcome.node,
        state=pb.NodeOutcome.State.Value(f"STATE_{outcome.state.name}"),
        message=outcome.message,
        bytes_sent=outcome.bytes_sent,
        bytes_received=outcome.bytes_received,
        duration=None if outcome.duration is None else duration(outcome.duration),
    )


def report_from(message: pb.Round) -> RoundReport:
    """Return a reported round; its gate is not read, the coordinator knows it."""
    return RoundReport(
        number=message.number,
        metrics=dict(message.metrics),
        node_results=message.node_results,
        node_failures=tuple(NodeFailure(one.node, one.message) for one in message.node_failures),
        duration=message.duration.ToTimedelta(),
        checkpoint_sha256=message.checkpoint_sha256,
        capped_nodes=tuple(message.capped_nodes),
        epsilon=message.epsilon if message.HasField("epsilon") else None,
        delta=message.delta if message.HasField("delta") else None,
        noisy_releases=message.noisy_releases if message.HasField("noisy_releases") else None,
        outcomes=tuple(map(_outcome_from, message.node_outcomes)),
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        cpu_s=message.cpu_seconds if message.HasField("cpu_seconds") else None,
    )


def _outcome_from(message: pb.NodeOutcome) -> NodeOutcome:
    state = pb.NodeOutcome.State.Name(message.state).removeprefix("STATE_")
    return NodeOutcome(
        message.node,
        ResultState.__members__.get(state, ResultState.FAILED),
        message.message,
        message.bytes_sent,
        message.bytes_received,
        message.duration.ToTimedelta() if message.HasField("duration") else None,
    )


def node_message(status: NodeStatus) -> node_pb.Node:
    return node_pb.Node(
        name=status.node.name,
        public_key_pem=status.node.public_key_pem,
        zone=status.node.zone,
        state=node_pb.Node.State.Value(f"STATE_{status.state.name}"),
        last_active_time=timestamp(status.last_active),
        create_time=timestamp(status.node.create_time),
        watts=status.node.watts,
        labels=status.node.labels,
    )


def _gate_message(gate: GateDecision) -> pb.GateDecision:
    return pb.GateDecision(
        clean=gate.clean,
        reason=gate.reason,
        intensity_g_per_kwh=gate.intensity,
        threshold_g_per_kwh=gate.threshold,
        source=gate.source,
        waited=duration(gate.waited),
        zones=[
            pb.ZoneShare(zone=one.zone, share=one.share, intensity_g_per_kwh=one.intensity)
            for one in gate.zones
        ],
    )
