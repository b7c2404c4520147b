"""Rounds of a training run as the SDK shows them, and how they are read from messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_client.core.operation import Page
from aegis_client.core.values import enum_name, known, moment, span


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneShare:
    """A zone's part in a gate's decision.

    Attributes:
        zone: `zones/{zone}`, or empty for the carbon service's default.
        share: Its part of the power, above 0 to 1.
        intensity_g_per_kwh: None when there was none; it then does not count.
    """

    zone: str
    share: float
    intensity_g_per_kwh: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the carbon gate said before a round.

    Attributes:
        clean: True when the rule was met; false when the wait was over or there was no data.
        reason: One word, for example `BELOW_THRESHOLD`, `MAX_WAIT` or `CARBON_UNAVAILABLE`.
        intensity_g_per_kwh: At the start of the round; None when there was none.
        threshold_g_per_kwh: None when the carbon service did not answer.
        source: Provider of the intensity, or empty.
        waited: Time that the round waited for the grid.
        zones: Those that counted, the largest share first.
    """

    clean: bool
    reason: str
    intensity_g_per_kwh: float | None
    threshold_g_per_kwh: float | None
    source: str
    waited: timedelta | None
    zones: tuple[ZoneShare, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPiece:
    """A piece of a run's model: the next bytes of a file of *total_bytes*, as it is after *round*."""

    data: bytes
    total_bytes: int
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailure:
    """One node's failure in a round; `node` is empty when it could not be named."""

    node: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutcome:
    """What one node did in a round.

    Attributes:
        node: `nodes/{node}`, or empty when nobody knows it.
        state: What became of its result: `USED`, `DROPPED`, `LATE` or `FAILED`.
        message: Why it was not used, or empty.
        bytes_sent: Content sent to the node, without what the transport adds; likewise received.
        duration: From the model's way to the node until its result was here; None for one that was late.
    """

    node: str
    state: str
    message: str
    bytes_sent: int
    bytes_received: int
    duration: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnergy:
    """What a round used and emitted, as the carbon ledger recorded it.

    Attributes:
        kwh: Energy with the building's overhead; likewise the ends of its interval.
        grams: Of CO2-equivalent, as first stated; None when no intensity was known.
        estimated: True unless energy and intensity were both measured.
    """

    kwh: float
    kwh_low: float
    kwh_high: float
    grams: float | None
    estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The report of one round.

    Attributes:
        number: 1 and up.
        gate: What the carbon gate said, or None when it did not say anything.
        metrics: By name, for example `accuracy` (0 to 1) on the server's test set.
        node_results: Nodes whose results went into the model.
        node_failures: Nodes that failed, were late, or whose results were dropped.
        duration: Time from the opening of the gate to the aggregated model.
        checkpoint_sha256: Of the checkpoint, 64 lower-case hex digits.
        capped_nodes: `nodes/{node}` of those whose weight was lowered.
        epsilon: Privacy that the run has spent up to here; None when no bound is known.
        delta: The delta of `epsilon`.
        noisy_releases: Models, or updates of one node, that `epsilon` is the price of; None without it.
        start_time: When it was let in.
        end_time: When it was reported.
        attempt: How often it was let in; more than once when it was given up before.
        node_outcomes: What each node did, by name; empty but from `rounds` and `watch`.
        bytes_sent: Content sent to all nodes, without what the transport adds; likewise received.
        cpu_seconds: Of the app's server part and, in process, of the virtual nodes; None when not measured.
        energy: None until the ledger has recorded it.
        unmetered_nodes: Nodes whose power nobody declared: what they used is not in `energy`.
    """

    number: int
    gate: Gate | None
    metrics: dict[str, float]
    node_results: int
    node_failures: tuple[NodeFailure, ...]
    duration: timedelta | None
    checkpoint_sha256: str
    capped_nodes: tuple[str, ...] = ()
    epsilon: float | None = None
    delta: float | None = None
    noisy_releases: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    attempt: int = 1
    node_outcomes: tuple[NodeOutcome, ...] = ()
    bytes_sent: int = 0
    bytes_received: int = 0
    cpu_seconds: float | None = None
    energy: RoundEnergy | None = None
    unmetered_nodes: int = 0


def read_rounds(answer: pb.ListRoundsResponse) -> Page[Round]:
    return Page(list(map(read_round, answer.rounds)), answer.next_page_token)


def read_round(report: pb.Round) -> Round:
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
        capped_nodes=tuple(report.capped_nodes),
        epsilon=known(report, "epsilon"),
        delta=known(report, "delta"),
        noisy_releases=known(report, "noisy_releases"),
        start_time=moment(report, "start_time"),
        end_time=moment(report, "end_time"),
        attempt=report.attempt,
        node_outcomes=tuple(map(_read_outcome, report.node_outcomes)),
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        cpu_seconds=known(report, "cpu_seconds"),
        energy=_read_energy(report.energy) if report.HasField("energy") else None,
        unmetered_nodes=report.unmetered_nodes,
    )


def _read_energy(message: pb.RoundEnergy) -> RoundEnergy:
    return RoundEnergy(
        kwh=message.kwh,
        kwh_low=message.kwh_low,
        kwh_high=message.kwh_high,
        grams=known(message, "grams"),
        estimated=message.estimated,
    )


def _read_outcome(message: pb.NodeOutcome) -> NodeOutcome:
    return NodeOutcome(
        node=message.node,
        state=enum_name(pb.NodeOutcome.State, message.state),
        message=message.message,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        duration=span(message, "duration"),
    )


def _read_gate(gate: pb.GateDecision) -> Gate:
    return Gate(
        clean=gate.clean,
        reason=gate.reason,
        intensity_g_per_kwh=known(gate, "intensity_g_per_kwh"),
        threshold_g_per_kwh=known(gate, "threshold_g_per_kwh"),
        source=gate.source,
        waited=span(gate, "waited"),
        zones=tuple(
            ZoneShare(zone=one.zone, share=one.share, intensity_g_per_kwh=known(one, "intensity_g_per_kwh"))
            for one in gate.zones
        ),
    )
