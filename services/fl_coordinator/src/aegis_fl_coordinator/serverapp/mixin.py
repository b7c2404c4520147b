"""Wraps any Flower strategy: gate, quorum and deadline, a checkpoint after each round, and a report."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from aegis.fl.v1 import training_service_pb2 as training_pb
from aegis_fl_coordinator.runfile import RunFile
from aegis_fl_coordinator.serverapp import checkpoint
from aegis_fl_coordinator.serverapp.grid import NotEnoughNodes, PatientGrid
from aegis_fl_coordinator.serverapp.link import Link
from aegis_fl_coordinator.serverapp.meter import Meter
from aegis_fl_coordinator.serverapp.privacy import Accountant
from aegis_fl_coordinator.serverapp.state import restore_strategy, strategy_state
from aegis_fl_coordinator.serverapp.strategies import innermost
from aegis_fl_coordinator.serverapp.updates import Rules, Sifted, sift

Evaluate = Callable[[ArrayRecord], Mapping[str, float]]
_MESSAGE_CHARS: Final = 300


class NoResults(Exception):
    """Too few nodes gave a usable result in a round."""


@runtime_checkable
class Remembering(Protocol):
    """A grid whose nodes' own state goes into the checkpoint, because it lives in this run alone."""

    def snapshot(self) -> Mapping[str, Any]: ...
    def restore(self, snapshot: Mapping[str, Any]) -> None: ...


class Coordinated(Strategy):
    """A strategy under a coordinator; everything else is the wrapped strategy's.

    Flower counts rounds from 1 in every start; here they count on from the checkpoint.

    Args:
        inner: The strategy that does the work.
        run: The run.
        link: The way to the coordinator.
        checkpoints: Folder of the run's checkpoints, in the run's own.
        node_name: Returns the resource name of a Flower node id, or an empty string.
        evaluate: Measures the aggregated model on the server's own data.
        round_timeout: How long a round may take, in seconds.
        nodes: The grid's memory of its nodes, where it has one.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        run: RunFile,
        link: Link,
        checkpoints: Path,
        node_name: Callable[[int], str],
        evaluate: Evaluate | None,
        round_timeout: float,
        nodes: Remembering | None = None,
    ) -> None:
        self._inner = inner
        self._run = run
        self._link = link
        self._checkpoints = checkpoints
        self._node_name = node_name
        self._evaluate = evaluate
        self._round_timeout = round_timeout
        self._nodes = nodes
        self._privacy = Accountant(inner, run.privacy, checkpoints.parent)
        self._meter = Meter(nodes)
        self._report = training_pb.Round()
        self._started = 0.0
        self._model = ArrayRecord()
        self._asked = 0
        self.done = 0
        """Rounds that were done before this process began."""
        self.metrics: Mapping[str, float] = {}
        """What was measured of the newest model: by `evaluate`, or where there is none by the nodes."""

    def resume(self) -> ArrayRecord | None:
        """Go back to the newest checkpoint and return its model, or None when there is none.

        Raises:
            RunStopped: The run is to end.
        """
        found = checkpoint.newest(self._checkpoints)
        if found is None:
            return None
        self.done = found.number
        restore_strategy(self._inner, found.state["strategy"])
        self._privacy.releases = found.state["releases"]
        self.metrics = found.state["metrics"]
        if self._nodes is not None:
            self._nodes.restore(found.state["nodes"])
        # Whoever wrote the checkpoint may not have come to report it; a report counts once.
        self._link.report_round(training_pb.Round.FromString(found.state["report"]))
        return found.arrays

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        number = self.done + server_round
        self._link.await_round(number, lambda: len(list(grid.get_node_ids())))
        self._privacy.check(arrays)
        self._started = time.monotonic()
        self._meter.begin(grid)
        self._seed(number)
        self._model = arrays
        patient = PatientGrid(grid, patience=self._round_timeout)
        messages = list(self._inner.configure_train(number, arrays, config, patient))
        self._asked = len(messages)
        self._privacy.ask(messages, self._named, self._weight_key())
        self._meter.sent(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        number = self.done + server_round
        # In one order, whoever answers first: sums of floats, and so whole runs, then repeat exactly.
        received = sorted(replies, key=self._order)
        self._meter.received(received)
        failed = [(reply, _reason(reply)) for reply in received if reply.has_error()]
        sifted = sift([reply for reply in received if not reply.has_error()], self._model, self._rules())
        failed += sifted.dropped
        self._check_quorum(number, len(sifted.usable), failed)
        self._privacy.before(len(sifted.usable), seeded=self._run.virtual and self._run.seed is not None)
        arrays, metrics = self._inner.aggregate_train(number, sifted.usable)
        if arrays is None:
            raise NoResults(f"round {number} gave no model{_because(failed)}")
        self._privacy.after()
        self._report = self._new_report(number, sifted, failed, metrics)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self._asks_nodes:
            return []
        patient = PatientGrid(grid, patience=self._round_timeout)
        try:
            messages = list(self._inner.configure_evaluate(self.done + server_round, arrays, config, patient))
        except NotEnoughNodes as error:
            # The round is trained: a measurement that cannot be had must not undo it.
            self._report.node_failures.add(message=f"evaluation: {error}")
            return []
        self._meter.sent(messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        received = sorted(replies, key=self._order)
        if not self._asks_nodes:
            return None
        self._meter.received(received)
        for reply in received:
            if reply.has_error():
                node = self._named(self._meter.node(reply))
                self._report.node_failures.add(node=node, message=f"evaluation: {_reason(reply)}")
        metrics = self._inner.aggregate_evaluate(self.done + server_round, received)
        for name, value in _numbers(metrics).items():
            self._report.metrics[f"federated_{name}"] = value
        if self._evaluate is None:
            self.metrics = {f"federated_{name}": value for name, value in _numbers(metrics).items()}
        return metrics

    @property
    def _asks_nodes(self) -> bool:
        """True when nodes measure: with differential privacy that would leave them without noise."""
        return self._run.evaluation.asks_nodes and not (self._privacy.local or self._privacy.central)

    def summary(self) -> None:
        self._inner.summary()

    def finish_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Measure the model, write the checkpoint and report; Flower calls this last in each round.

        With 0 it is called before the first one, and does nothing.
        """
        if server_round == 0:
            return None
        if self._evaluate is not None:
            self.metrics = {name: float(value) for name, value in self._evaluate(arrays).items()}
            for name, value in self.metrics.items():
                self._report.metrics[name] = value
        self._meter.add_to(self._report)
        self._report.checkpoint_sha256, content = checkpoint.digest(arrays)
        # First the checkpoint, with the report in it: then no round is lost, and none counts twice.
        checkpoint.save(self._checkpoints, self.done + server_round, content, self._state())
        self._link.report_round(self._report)
        return MetricRecord(dict(self.metrics))

    def _state(self) -> dict[str, Any]:
        return {
            "strategy": strategy_state(self._inner),
            "releases": self._privacy.releases,
            "metrics": dict(self.metrics),
            "nodes": {} if self._nodes is None else dict(self._nodes.snapshot()),
            "report": self._report.SerializeToString(),
        }

    def _seed(self, number: int) -> None:
        """Make what a round draws depend on the run's seed and the round alone."""
        if self._run.seed is None:
            return
        text = f"{self._run.seed}/{number}"
        random.seed(text)
        # Noise that protects real nodes must not be foreseeable.
        if self._run.virtual:
            np.random.seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]))

    def _rules(self) -> Rules:
        asked, averaging = self._run.aggregation, innermost(self._inner)
        return Rules(
            weight_key=self._weight_key(),
            shaped=not type(averaging).__name__.startswith("FedXgb"),
            # Clipping bounds what a node can do; to drop one because of others would let it do more.
            max_update_ratio=0.0 if self._privacy.central else asked.max_update_ratio,
            max_weight_ratio=asked.max_weight_ratio,
            max_norm=self._privacy.clipped_to,
            uniform=self._privacy.central,
            confirmation=self._privacy.confirmation,
        )

    def _weight_key(self) -> str:
        return str(getattr(innermost(self._inner), "weighted_by_key", "num-examples"))

    def _check_quorum(self, number: int, usable: int, failed: Sequence[tuple[Message, str]]) -> None:
        quorum = self._run.aggregation.quorum or max(1, math.ceil(self._asked / 2))
        if usable < quorum:
            raise NoResults(
                f"round {number} gave no model: {usable} of {self._asked} nodes gave a usable result, "
                f"the quorum is {quorum}{_because(failed)}"
            )

    def _new_report(
        self,
        number: int,
        sifted: Sifted,
        failed: Sequence[tuple[Message, str]],
        metrics: MetricRecord | None,
    ) -> training_pb.Round:
        report = training_pb.Round(
            number=number,
            # What nodes measured has no noise, and epsilon would not be true of it.
            metrics={} if self._privacy.central else _numbers(metrics),
            node_results=len(sifted.usable),
            node_failures=[
                training_pb.NodeFailure(node=self._named(self._meter.node(reply)), message=reason)
                for reply, reason in failed
            ],
            capped_nodes=[self._named(node) for node in sifted.capped],
        )
        report.duration.FromTimedelta(timedelta(seconds=time.monotonic() - self._started))
        found = [*((reply, "") for reply in sifted.usable), *failed]
        report.node_outcomes.extend(
            self._meter.outcome(reply, fault, self._named(self._meter.node(reply)))
            for reply, fault in sorted(found, key=lambda item: self._order(item[0]))
        )
        spent = self._privacy.spent()
        if spent is not None:
            report.epsilon, report.noisy_releases = spent
            report.delta = self._run.privacy.delta
        return report

    def _order(self, reply: Message) -> tuple[str, int]:
        node = self._meter.node(reply)
        return self._named(node), node

    def _named(self, node: int) -> str:
        return self._node_name(node)


def _reason(reply: Message) -> str:
    return (reply.error.reason or f"error {reply.error.code}")[:_MESSAGE_CHARS]


def _because(failed: Sequence[tuple[Message, str]]) -> str:
    reasons = "; ".join(dict.fromkeys(reason for _, reason in failed))
    return f": {reasons[:_MESSAGE_CHARS]}" if reasons else ""


def _numbers(metrics: MetricRecord | None) -> dict[str, float]:
    """Return the plain, finite numbers of a record: what a report can carry."""
    found = {} if metrics is None else dict(metrics.items())
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
