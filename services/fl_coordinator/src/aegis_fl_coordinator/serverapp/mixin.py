"""Wraps any Flower strategy: the gate before each round, a checkpoint and a report after it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from aegis.fl.v1 import training_service_pb2 as training_pb
from aegis_fl_coordinator.serverapp import checkpoint
from aegis_fl_coordinator.serverapp.link import Link

Evaluate = Callable[[ArrayRecord], Mapping[str, float]]
_MESSAGE_CHARS: Final = 300


class NoResults(Exception):
    """No node gave a usable result in a round."""


class Coordinated(Strategy):
    """A strategy under a coordinator; everything else is the wrapped strategy's.

    Args:
        inner: The strategy that does the work.
        link: The way to the coordinator.
        checkpoints: Folder of the run's checkpoints.
        node_name: Returns the resource name of a Flower node id, or an empty string.
        evaluate: Measures the aggregated model on the server's own data.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        link: Link,
        checkpoints: Path,
        node_name: Callable[[int], str],
        evaluate: Evaluate | None,
    ) -> None:
        self._inner = inner
        self._link = link
        self._checkpoints = checkpoints
        self._node_name = node_name
        self._evaluate = evaluate
        self._round = training_pb.Round()
        self._started = 0.0
        self.metrics: Mapping[str, float] = {}
        """What `evaluate` said of the newest model."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._link.await_round(server_round, lambda: len(list(grid.get_node_ids())))
        self._started = time.monotonic()
        return self._inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        # In one order, whoever answers first: sums of floats, and so whole runs, then repeat exactly.
        received = sorted(replies, key=self._order)
        arrays, metrics = self._inner.aggregate_train(server_round, received)
        failed = [reply for reply in received if reply.has_error()]
        if arrays is None:
            reasons = "; ".join(_reason(reply) for reply in failed) or "no node answered in time"
            raise NoResults(f"round {server_round} gave no model: {reasons[:_MESSAGE_CHARS]}")
        report = training_pb.Round(
            number=server_round,
            metrics={name: float(value) for name, value in _numbers(metrics).items()},
            node_results=len(received) - len(failed),
            node_failures=[self._failure(reply) for reply in failed],
            checkpoint_sha256=checkpoint.save(self._checkpoints, server_round, arrays),
        )
        report.duration.FromTimedelta(timedelta(seconds=time.monotonic() - self._started))
        self._round = report
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        metrics = self._inner.aggregate_evaluate(server_round, replies)
        for name, value in _numbers(metrics).items():
            self._round.metrics[f"federated_{name}"] = value
        return metrics

    def summary(self) -> None:
        self._inner.summary()

    def finish_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Measure the model and report the round; Flower calls this last in each round, and with 0 first."""
        if server_round == 0:
            return None
        if self._evaluate is not None:
            self.metrics = dict(self._evaluate(arrays))
            for name, value in self.metrics.items():
                self._round.metrics[name] = value
        self._link.report_round(self._round)
        return MetricRecord({name: float(value) for name, value in self.metrics.items()})

    def _order(self, reply: Message) -> tuple[str, int]:
        node = reply.metadata.src_node_id
        return self._node_name(node), node

    def _failure(self, reply: Message) -> training_pb.NodeFailure:
        return training_pb.NodeFailure(
            node=self._node_name(reply.metadata.src_node_id), message=_reason(reply)
        )


def _reason(reply: Message) -> str:
    return (reply.error.reason or f"error {reply.error.code}")[:_MESSAGE_CHARS]


def _numbers(metrics: MetricRecord | None) -> dict[str, float]:
    """Return the plain, finite numbers of a record: what a report can carry."""
    found = {} if metrics is None else dict(metrics.items())
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
