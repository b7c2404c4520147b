"""The entry for training apps: a whole coordinated run from a strategy, a model and two functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from aegis_fl_coordinator.domain.evaluation import Evaluation
from aegis_fl_coordinator.runfile import (
    CHECKPOINTS,
    DESCRIPTION_FILE,
    MODEL_FILE,
    RUN_KEY,
    RunFile,
    run_folder,
    write_private,
)
from aegis_fl_coordinator.serverapp.grid import FastGrid
from aegis_fl_coordinator.serverapp.link import Link, link_for
from aegis_fl_coordinator.serverapp.mixin import Coordinated, Evaluate, Remembering
from aegis_fl_coordinator.serverapp.strategies import evaluating, make_strategy

DESCRIPTION_VERSION: Final = 1


class NoMeasure(Exception):
    """The run wants the app's server part to measure the model, and it has nothing to do so with."""


@dataclass(frozen=True, slots=True)
class ExportedArrays:
    """A model ready to be published.

    Attributes:
        onnx: The ONNX file.
        description: What there is to know about it: task, data, how to check it. JSON values only.
    """

    onnx: bytes
    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AppSpec:
    """What an app brings to a coordinated run.

    Attributes:
        initial: Parameters to start from.
        evaluate: Measures a model on data that the server holds; names to finite numbers.
        export: Turns the last parameters into a model file; called once, at the end.
        strategy: Makes the app's own strategy for the least number of nodes, for runs that name none. If
            None, Federated Averaging without federated evaluation, which costs as much as training.
        train_config: What every site gets with each round.
        round_timeout: How long a round may take when the run does not say it, in seconds.
    """

    initial: ArrayRecord
    evaluate: Evaluate | None = None
    export: Callable[[ArrayRecord], ExportedArrays] | None = None
    strategy: Callable[[int], Strategy] | None = None
    train_config: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    round_timeout: float = 600.0


def run_coordinated(grid: Grid, context: Context, spec: AppSpec) -> None:
    """Run an app from its first round to its exported model, under the coordinator that submitted it.

    Raises:
        RunStopped: The coordinator wants the run to end.
        BrokenRunFile: The process was not started for a coordinator's run.
    """
    folder = run_folder(str(context.run_config.get(RUN_KEY, "")))
    train(grid, folder, spec, link_for(folder, RunFile.read(folder)))


def train(grid: Grid, folder: Path, spec: AppSpec, link: Link) -> None:
    """Run *spec* for the run whose file lies in *folder*, over any grid and link.

    Raises:
        RunStopped: The coordinator wants the run to end.
        NoMeasure: The run's evaluation is central, and *spec* has no `evaluate`.
        UnusableStrategy: The strategy cannot be made, or cannot evaluate as the run asks.
    """
    run = RunFile.read(folder)
    if run.evaluation is Evaluation.CENTRAL and spec.evaluate is None:
        raise NoMeasure(
            "the run's evaluation is central, and the app's server part has no `evaluate` in its AppSpec; "
            "give it one, or choose the evaluation federated or none"
        )

    def nodes() -> Mapping[int, str]:
        # Read anew: nodes come and go while a run goes on.
        return RunFile.read(folder).nodes

    def allowed() -> Iterable[int]:
        return nodes().keys()

    aggregation = run.aggregation
    timeout = aggregation.round_timeout or spec.round_timeout
    made = make_strategy(aggregation, min_nodes=run.min_nodes, own=spec.strategy)
    strategy = Coordinated(
        evaluating(made, aggregation) if run.evaluation is Evaluation.FEDERATED else made,
        run=run,
        link=link,
        checkpoints=folder / CHECKPOINTS,
        node_name=lambda node: nodes().get(node, ""),
        evaluate=spec.evaluate if run.evaluation.asks_server else None,
        round_timeout=timeout,
        nodes=grid if isinstance(grid, Remembering) else None,
    )
    resumed = strategy.resume()
    arrays = spec.initial if resumed is None else resumed
    left = run.rounds - strategy.done
    if left > 0:
        result = strategy.start(
            grid=FastGrid(grid, allowed=allowed),
            initial_arrays=arrays,
            num_rounds=left,
            timeout=timeout,
            train_config=ConfigRecord(dict(spec.train_config)),
            evaluate_fn=strategy.finish_round,
        )
        arrays = result.arrays
    if spec.export is not None:
        _write_model(folder, spec.export(arrays), strategy.metrics, run)


def _write_model(folder: Path, model: ExportedArrays, metrics: Mapping[str, float], run: RunFile) -> None:
    description = {
        "schema_version": DESCRIPTION_VERSION,
        "rounds": run.rounds,
        "metrics": dict(metrics),
        **model.description,
    }
    write_private(folder / DESCRIPTION_FILE, json.dumps(description, indent=1).encode())
    # Last: the model is there only when its description is.
    write_private(folder / MODEL_FILE, model.onnx)
