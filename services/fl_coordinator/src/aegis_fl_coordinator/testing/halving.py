"""A run over nodes in this process: each round goes half the way to a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod

from aegis_fl_coordinator.domain.privacy import Privacy
from aegis_fl_coordinator.domain.strategies import Aggregation
from aegis_fl_coordinator.runfile import RunFile
from aegis_fl_coordinator.serverapp import AppSpec
from aegis_fl_coordinator.serverapp.entry import train
from aegis_fl_coordinator.serverapp.link import FileLink, RunStopped
from aegis_fl_coordinator.testing.grid import FIRST_NODE, LocalGrid

DP: Final = "DifferentialPrivacy"
TARGET: Final = np.array([1.0, -2.0, 3.0])
NEEDS: Final[dict[str, dict[str, Any]]] = {
    "FedAvgM": {"server_momentum": 0.5},
    "FedProx": {"proximal_mu": 0.1},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3.0},
    "Bulyan": {"num_malicious_nodes": 1.0},
    "FedAdam": {"eta": 0.5},
    "FedAdagrad": {"eta": 0.8},
    "FedYogi": {"eta": 0.5},
    "QFedAvg": {"client_learning_rate": 0.5, "q": 0.01, "train_loss_key": "train_loss"},
    f"{DP}ServerSideFixedClipping": {"noise_multiplier": 0.05, "clipping_norm": 1.0},
    f"{DP}ServerSideAdaptiveClipping": {"noise_multiplier": 0.05, "initial_clipping_norm": 1.0},
    f"{DP}ClientSideFixedClipping": {"noise_multiplier": 0.05, "clipping_norm": 1.0},
    f"{DP}ClientSideAdaptiveClipping": {"noise_multiplier": 0.05, "initial_clipping_norm": 1.0},
}
MODS: Final = {
    f"{DP}ClientSideFixedClipping": [fixedclipping_mod],
    f"{DP}ClientSideAdaptiveClipping": [adaptiveclipping_mod],
}
NODES: Final = 7


def halving_app(*, mods: Any = (), answers: dict[int, Any] | None = None) -> ClientApp:
    """Return an app that goes half the way to the target; *answers* says what nodes send instead."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def go(message: Message, context: Context) -> Message:
        partition = int(str(context.node_config["partition-id"]))
        start = message.content.array_records["arrays"]["w"].numpy()
        weights = start + (TARGET + partition / 100 - start) / 2
        metrics: dict[str, Any] = {"num-examples": 10, "train_loss": float(np.abs(TARGET - start).sum())}
        arrays = {"w": Array(weights)}
        if answers and partition in answers:
            arrays, metrics = answers[partition](arrays, metrics)
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=message)

    return app


def distance(arrays: ArrayRecord) -> dict[str, float]:
    return {"distance": float(np.abs(arrays["w"].numpy() - TARGET).max())}


def spec(**changed: Any) -> AppSpec:
    return AppSpec(initial=ArrayRecord({"w": Array(np.zeros(3))}), evaluate=distance, **changed)


class Cut(FileLink):
    """A link that ends the run before a round, as a kill does."""

    def __init__(self, folder: Path, before: int) -> None:
        super().__init__(folder, 1)
        self.before = before

    def await_round(self, number: int, count_nodes: Any) -> None:  # noqa: ARG002
        if number >= self.before:
            raise RunStopped("cut")


def run(
    folder: Path,
    aggregation: Aggregation,
    *,
    rounds: int = 8,
    app: ClientApp | None = None,
    cut_before: int = 99,
    app_spec: AppSpec | None = None,
    privacy: Privacy | None = None,
) -> list[dict[str, Any]]:
    """Run over seven nodes and return the reports so far."""
    nodes = {FIRST_NODE + number: f"nodes/site-{number + 1}" for number in range(NODES)}
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    RunFile(
        "r",
        rounds,
        NODES,
        trace,
        nodes,
        None,
        aggregation,
        seed=5,
        virtual=True,
        privacy=privacy or Privacy(),
    ).write(folder)
    mods = MODS.get(aggregation.strategy, [])
    grid = LocalGrid(app or halving_app(mods=mods), NODES)
    try:
        train(grid, folder, app_spec or spec(), Cut(folder, cut_before))
    except RunStopped:
        if cut_before > rounds:
            raise
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
