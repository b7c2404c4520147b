"""Every strategy of Flower by name, and a custom one: learns, survives, is refused where it cannot hold."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedMedian, Strategy

from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.strategies import KNOWN, Aggregation, checked
from aegis_fl_coordinator.runfile import CHECKPOINTS
from aegis_fl_coordinator.serverapp import AppSpec, checkpoint
from aegis_fl_coordinator.serverapp.strategies import UnusableStrategy, make_strategy
from aegis_fl_coordinator.testing.halving import DP, NEEDS, NODES, halving_app, run, spec

SHAPED: Final = [name for name, known in KNOWN.items() if known.shaped]


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> Iterator[None]:
    """Flower collects garbage for each array: spare it what a long test process holds."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_every_strategy_of_flower_is_known() -> None:
    exported = {name for name in flower.__all__ if issubclass(getattr(flower, name), Strategy)}

    assert exported - {"Strategy"} == KNOWN.keys()


@pytest.mark.parametrize("name", SHAPED)
def test_a_strategy_learns_and_a_run_that_was_cut_ends_with_the_same_model(tmp_path: Path, name: str) -> None:
    aggregation = checked(Aggregation(name, NEEDS.get(name, {})), nodes=NODES)
    whole = run(tmp_path / "whole", aggregation)
    cut = run(tmp_path / "cut", aggregation, cut_before=5)
    cut = [*cut, *run(tmp_path / "cut", aggregation)]

    # from 3 at the start; the adaptive ones go beyond the target and come back
    assert min(report["metrics"]["distance"] for report in whole) < 1
    assert {one["number"] for one in cut} == set(range(1, 9))
    assert cut[-1]["checkpoint_sha256"] == whole[-1]["checkpoint_sha256"]


def test_trees_are_bagged_round_by_round_and_go_on_after_a_cut(tmp_path: Path) -> None:
    def trees(arrays: Any, metrics: Any) -> Any:
        model = {
            "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
            "iteration_indptr": [0, 1],
            "trees": [{"id": 0}],
            "tree_info": [0],
        }
        tree = json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()
        return {"0": Array(np.frombuffer(tree, np.uint8))}, metrics

    app = halving_app(answers=dict.fromkeys(range(NODES), trees))
    start = AppSpec(initial=ArrayRecord({"0": Array(np.frombuffer(b"", np.uint8))}))
    seeded = plain_app(app)
    aggregation = Aggregation("FedXgbBagging")
    run(tmp_path, aggregation, rounds=2, app=seeded, app_spec=start, cut_before=2)
    run(tmp_path, aggregation, rounds=2, app=seeded, app_spec=start)

    booster = json.loads(checkpoint.load(tmp_path / CHECKPOINTS, 2)["0"].numpy().tobytes())
    assert len(booster["learner"]["gradient_booster"]["model"]["trees"]) == 2 * NODES


def plain_app(app: ClientApp) -> ClientApp:
    """Return *app* for a model that is one array of bytes."""
    outer = ClientApp()

    @outer.train()
    def go(message: Message, context: Context) -> Message:
        message.content.array_records["arrays"]["w"] = Array(np.zeros(3))
        return app(message, context)

    return outer


def test_one_node_a_round_trains_a_cyclic_model(tmp_path: Path) -> None:
    reports = run(tmp_path, Aggregation("FedXgbCyclic"), rounds=3)

    assert [report["node_results"] for report in reports] == [1, 1, 1]


class OwnMedian(FedMedian):
    """A strategy of the tests with state that is not one of Flower's."""

    def __init__(self, *, bonus: float, **common: Any) -> None:
        super().__init__(**common)
        self.bonus = bonus
        self.rounds = 0

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rounds = state["rounds"]

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.rounds += 1
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        return ArrayRecord({"w": Array(arrays["w"].numpy() + self.bonus * self.rounds)}), metrics


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> str:
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "own_strategies", SimpleNamespace(OwnMedian=OwnMedian, Other=int))
    return "own_strategies"


def test_a_class_of_the_apps_own_keeps_its_own_state(tmp_path: Path, own_module: str) -> None:
    aggregation = checked(Aggregation(f"{own_module}:OwnMedian", {"bonus": 0.25}), nodes=NODES)
    whole = run(tmp_path / "whole", aggregation, rounds=4)
    run(tmp_path / "cut", aggregation, rounds=4, cut_before=3)
    cut = run(tmp_path / "cut", aggregation, rounds=4)

    assert cut[-1]["checkpoint_sha256"] == whole[-1]["checkpoint_sha256"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Thing", "cannot be imported"),
        ("own_strategies:Missing", "cannot be imported"),
        ("own_strategies:Other", "is no flwr.serverapp.strategy.Strategy"),
        ("own_strategies:OwnMedian", "cannot be made: TypeError"),
    ],
)
def test_a_class_that_is_no_strategy_says_why(own_module: str, name: str, message: str) -> None:
    with pytest.raises(UnusableStrategy, match=message):
        make_strategy(Aggregation(name), min_nodes=3)


def test_a_fraction_is_sampled_and_repeats_with_the_seed(tmp_path: Path) -> None:
    aggregation = checked(Aggregation(fraction=0.3), nodes=NODES)
    first = run(tmp_path / "first", aggregation)
    second = run(tmp_path / "second", aggregation)

    assert [report["node_results"] for report in first] == [2] * 8
    shas = [[report["checkpoint_sha256"] for report in reports] for reports in (first, second)]
    assert shas[0] == shas[1]


def test_the_fraction_counts_for_an_apps_own_strategy_too(tmp_path: Path) -> None:
    own = spec(strategy=lambda nodes: FedMedian(min_train_nodes=nodes, fraction_evaluate=0.0))

    reports = run(tmp_path, Aggregation(fraction=0.5), rounds=1, app_spec=own)

    assert reports[0]["node_results"] == 3


@pytest.mark.parametrize(
    ("strategy", "parameters", "nodes", "message"),
    [
        ("FedAvrg", {}, 7, "there is no strategy 'FedAvrg'; there are FedAvg, "),
        ("SecAggPlus", {}, 7, r"has secure aggregation \(SecAgg\+\) for its former API alone.*local_noise"),
        ("Krum", {"num_malicious_nodes": 1}, 4, r"with num_malicious_nodes f=1 it needs 2f\+3 = 5 nodes"),
        ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 7}, 7, "at most 6 are trusted"),
        ("Bulyan", {"num_malicious_nodes": 1}, 6, r"it needs 4f\+3 = 7 nodes"),
        ("FedTrimmedAvg", {"beta": 0.1}, 7, "beta 0.1 of 7 nodes trims nothing; it needs 10 nodes"),
        ("FedTrimmedAvg", {"beta": 0.5}, 7, "0.5 is out of range: at least 0, below 0.5"),
        ("FedMedian", {}, 2, "a median needs 3 nodes"),
        ("FedAvg", {"eta": 1}, 7, "FedAvg does not take it; its parameters: none"),
        ("FedAdam", {"eta": "fast"}, 7, "'fast' is no number"),
        ("Krum", {"num_malicious_nodes": 0.5}, 7, "0.5 is no whole number"),
        ("QFedAvg", {}, 7, "client_learning_rate: QFedAvg needs it"),
        (f"{DP}ServerSideFixedClipping", {"noise_multiplier": 1}, 7, "clipping_norm: Diff.* needs it"),
        (
            f"{DP}ServerSideFixedClipping",
            {"noise_multiplier": 1, "clipping_norm": 1, "base": "Krum"},
            7,
            "no epsilon is known for noise on 'Krum', which is no plain mean; take one of FedAvg, FedProx",
        ),
        (f"{DP}ServerSideFixedClipping", {"noise_multiplier": 0, "clipping_norm": 1}, 7, "0 is out of range"),
        (
            f"{DP}ServerSideAdaptiveClipping",
            {"noise_multiplier": 0.7},
            7,
            "needs a noise_multiplier below 0.7",
        ),
        ("", {"eta": 1}, 7, "are those of a strategy: name it"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused_with_a_reason(
    strategy: str, parameters: dict[str, Any], nodes: int, message: str
) -> None:
    with pytest.raises(InvalidRunConfig, match=message):
        checked(Aggregation(strategy, parameters), nodes=nodes)


def test_a_quorum_of_more_nodes_than_are_asked_is_refused() -> None:
    with pytest.raises(InvalidRunConfig, match="4 is more than the 3 nodes that a round asks"):
        checked(Aggregation(fraction=0.5, quorum=4), nodes=7)


def changed_array(value: Any) -> Any:
    return lambda arrays, metrics: ({"w": Array(value)}, metrics)


def changed_metrics(**values: Any) -> Any:
    return lambda arrays, metrics: (arrays, metrics | values)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (changed_array(np.array([1.0, math.nan, 1.0])), "not all numbers of the update are finite"),
        (changed_array(np.array([1.0, math.inf, 1.0])), "not all numbers of the update are finite"),
        (changed_array(np.zeros(4)), "array w is (4,) float64; the model's is (3,) float64"),
        (changed_array(np.zeros(3, np.float32)), "array w is (3,) float32; the model's is (3,) float64"),
        (lambda arrays, metrics: ({"v": arrays["w"]}, metrics), "missing ['w'], unknown ['v']"),
        (changed_array(np.full(3, 1e6)), "10 times the median of the round"),
        (changed_metrics(train_loss=math.nan), "metric 'train_loss' is nan"),
        (changed_metrics(**{"num-examples": -1}), "it must be a number above 0"),
        (changed_metrics(extra=1), "other metrics than most nodes': ['extra']"),
    ],
)
@pytest.mark.parametrize("strategy", ["FedAvg", "FedMedian"])
def test_a_result_that_cannot_be_used_is_dropped_and_named(
    tmp_path: Path, strategy: str, answer: Any, fault: str
) -> None:
    (report,) = run(tmp_path, Aggregation(strategy), rounds=1, app=halving_app(answers={2: answer}))

    assert report["node_results"] == 6
    ((failure),) = report["node_failures"]
    assert failure["node"] == "nodes/site-3"
    assert failure["message"].startswith("dropped: ")
    assert fault in failure["message"]
    assert report["metrics"]["distance"] < 2


def test_an_exaggerated_number_of_examples_is_capped_and_named(tmp_path: Path) -> None:
    answers = {2: lambda arrays, metrics: ({"w": Array(np.full(3, 2.0))}, metrics | {"num-examples": 10**9})}
    (report,) = run(tmp_path, Aggregation(), rounds=1, app=halving_app(answers=answers))

    assert report["capped_nodes"] == ["nodes/site-3"]
    weights = checkpoint.load(tmp_path / CHECKPOINTS, 1)["w"].numpy()
    # 100 of 160 examples after the cap; uncapped, the model would be that node's.
    assert weights[0] == pytest.approx(2.0 * 100 / 160 + 0.515 * 60 / 160, abs=0.01)


def test_the_guard_can_be_switched_off(tmp_path: Path) -> None:
    app = halving_app(answers={2: changed_array(np.full(3, 1e6))})

    (report,) = run(tmp_path, Aggregation(max_update_ratio=0), rounds=1, app=app)

    assert report["metrics"]["distance"] > 1e5
