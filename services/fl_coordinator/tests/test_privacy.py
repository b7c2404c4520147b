"""Noise of the server and of the nodes: what it costs, that it is there, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from aegis_fl_coordinator.clientapp import private_updates
from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.privacy import (
    LocalNoise,
    Privacy,
    check_privacy,
    gaussian_epsilon,
    least_noise,
)
from aegis_fl_coordinator.domain.strategies import KNOWN, Aggregation
from aegis_fl_coordinator.inprocess.flower import identify
from aegis_fl_coordinator.runfile import BrokenRunFile
from aegis_fl_coordinator.serverapp.mixin import NoResults
from aegis_fl_coordinator.serverapp.privacy import Accountant
from aegis_fl_coordinator.serverapp.strategies import UnusableStrategy, make_strategy
from aegis_fl_coordinator.testing.halving import DP, MODS, NEEDS, NODES, halving_app, run

FIXED = f"{DP}ServerSideFixedClipping"


@pytest.mark.parametrize("name", MODS)
def test_client_side_clipping_without_its_mod_gives_no_model(tmp_path: Path, name: str) -> None:
    parameters = NEEDS[name] | ({"clipping_norm": 0.1} if "Fixed" in name else {"initial_clipping_norm": 0.1})

    with pytest.raises(NoResults, match="lacks the mod that clips"):
        run(tmp_path, Aggregation(name, parameters), app=halving_app())


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith(DP)])
def test_each_round_reports_the_privacy_that_is_spent(tmp_path: Path, name: str) -> None:
    reports = run(tmp_path, Aggregation(name, NEEDS[name] | {"noise_multiplier": 0.5}), rounds=3)

    expected = [gaussian_epsilon(0.5, releases) for releases in (1, 2, 3)]
    assert [report["epsilon"] for report in reports] == pytest.approx(expected)
    assert [report["delta"] for report in reports] == [1e-5] * 3


def test_no_epsilon_is_claimed_for_noise_on_a_median(tmp_path: Path) -> None:
    (report,) = run(tmp_path, Aggregation(FIXED, NEEDS[FIXED] | {"base": "FedMedian"}), rounds=1)

    assert "epsilon" not in report


def test_noise_is_scaled_to_the_nodes_that_answered(tmp_path: Path) -> None:
    strategy = make_strategy(Aggregation(FIXED, NEEDS[FIXED]), min_nodes=NODES)

    Accountant(strategy, Privacy(), tmp_path).before(4, seeded=True)

    assert strategy.num_sampled_clients == 4  # type: ignore[attr-defined]


def test_noise_for_real_nodes_is_not_that_of_a_seed(tmp_path: Path) -> None:
    accountant = Accountant(
        make_strategy(Aggregation(FIXED, NEEDS[FIXED]), min_nodes=NODES), Privacy(), tmp_path
    )
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # as an app may do
        accountant.before(4, seeded=False)
        drawn.append(np.random.normal())

    assert drawn[0] != drawn[1]


def test_noise_on_integers_is_refused(tmp_path: Path) -> None:
    accountant = Accountant(
        make_strategy(Aggregation(FIXED, NEEDS[FIXED]), min_nodes=NODES), Privacy(), tmp_path
    )

    with pytest.raises(
        UnusableStrategy, match="array 'seen' of the model is int64: noise on it would be rounded"
    ):
        accountant.check(ArrayRecord({"w": Array(np.zeros(3)), "seen": Array(np.zeros(1, np.int64))}))


def test_a_far_update_is_clipped_and_not_dropped_where_the_server_adds_noise(tmp_path: Path) -> None:
    app = halving_app(answers={2: lambda arrays, metrics: ({"w": Array(np.full(3, 1e6))}, metrics)})

    (report,) = run(tmp_path, Aggregation(FIXED, NEEDS[FIXED]), rounds=1, app=app)

    # Dropping it because of the others would make one node's influence larger than the noise was made for.
    assert report["node_results"] == NODES
    assert report["metrics"]["distance"] < 4
    assert "train_loss" not in report["metrics"]


def test_the_spent_privacy_outlives_a_cut_and_no_release_counts_twice(tmp_path: Path) -> None:
    aggregation = Aggregation(FIXED, NEEDS[FIXED] | {"noise_multiplier": 0.5})
    run(tmp_path, aggregation, rounds=4, cut_before=3)
    reports = {report["number"]: report for report in run(tmp_path, aggregation, rounds=4)}

    assert [reports[number]["noisy_releases"] for number in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert reports[4]["epsilon"] == pytest.approx(gaussian_epsilon(0.5, 4))


LOCAL = Privacy(delta=1e-6, local=LocalNoise(clipping_norm=4.0, noise_multiplier=0.5))


def test_nodes_add_the_noise_that_is_asked_and_send_nothing_else(tmp_path: Path) -> None:
    (report,) = run(tmp_path, Aggregation(), rounds=1, app=halving_app(mods=[private_updates]), privacy=LOCAL)

    assert report["epsilon"] == pytest.approx(gaussian_epsilon(0.5, 1, delta=1e-6))
    assert (report["delta"], report["noisy_releases"]) == (1e-6, 1)
    assert "train_loss" not in report["metrics"]
    assert "node_failures" not in report


def test_the_noise_has_the_deviation_that_epsilon_counts_on_and_no_seed() -> None:
    identify()
    asked = ConfigRecord({"clipping-norm": 0.5, "noise-multiplier": 3.0, "weight-key": "num-examples"})
    start = {"w": Array(np.zeros(20_000)), "seen": Array(np.arange(3))}
    sent = []
    for _ in range(2):
        message = Message(RecordDict({"arrays": ArrayRecord(start), "aegis-local-noise": asked}), 7, "train")

        def answer(message: Message, context: Any) -> Message:
            np.random.seed(0)
            arrays = ArrayRecord({"w": Array(np.full(20_000, 9.0)), "seen": Array(np.arange(3) + 1)})
            metrics = MetricRecord({"num-examples": 77, "train_loss": 0.1})
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

        sent.append(private_updates(message, None, answer).content)  # type: ignore[arg-type]
    noise = sent[0].array_records["arrays"]["w"].numpy()

    assert noise.std() == pytest.approx(3.0 * 2 * 0.5, rel=0.05)
    assert np.abs(noise - sent[1].array_records["arrays"]["w"].numpy()).max() > 1
    assert sent[0].array_records["arrays"]["seen"].numpy().tolist() == [0, 1, 2]
    assert dict(next(iter(sent[0].metric_records.values()))) == {"num-examples": 1.0}


def test_nodes_whose_app_adds_no_noise_are_dropped_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoResults, match=r"lacks the mod aegis_fl_coordinator\.clientapp\.private_updates"):
        run(tmp_path, Aggregation(), privacy=LOCAL, app=halving_app())


def test_an_update_that_was_asked_for_counts_though_the_round_was_cut(tmp_path: Path) -> None:
    app = halving_app(mods=[private_updates])
    failing = halving_app(mods=[private_updates], answers=dict.fromkeys(range(NODES), dying))
    with pytest.raises(NoResults):
        run(tmp_path, Aggregation(), rounds=1, app=failing, privacy=LOCAL)

    (report,) = run(tmp_path, Aggregation(), rounds=1, app=app, privacy=LOCAL)

    assert report["noisy_releases"] == 2
    assert report["epsilon"] == pytest.approx(gaussian_epsilon(0.5, 2, delta=1e-6))


def dying(arrays: Any, metrics: Any) -> Any:
    raise RuntimeError("the node is gone")


def test_a_lost_book_of_releases_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "releases.json").write_text("{")

    with pytest.raises(BrokenRunFile, match="so the privacy spent is not known"):
        run(tmp_path, Aggregation(), rounds=1, app=halving_app(mods=[private_updates]), privacy=LOCAL)


@pytest.mark.parametrize(
    ("aggregation", "privacy", "message"),
    [
        (
            Aggregation(FIXED, {"noise_multiplier": 1.0}),
            Privacy(8.0),
            "30 rounds with noise multiplier 1 spend epsilon",
        ),
        (
            Aggregation(FIXED, {"noise_multiplier": 1.0}),
            Privacy(8.0),
            "at most 2 rounds fit, or take a noise multiplier of at least 3.288",
        ),
        (Aggregation(FIXED, {"noise_multiplier": 1.0}), Privacy(1.0), "not one round fits"),
        (Aggregation(FIXED, {"noise_multiplier": 0.01}), Privacy(), "too little noise for 30 rounds"),
        (Aggregation(), Privacy(8.0), "nothing in this run adds noise whose epsilon is known"),
        (Aggregation("FedMedian"), Privacy(8.0), "nothing in this run adds noise whose epsilon is known"),
        (Aggregation("own:Class"), Privacy(8.0), "for a class of the app's own no epsilon is known"),
        (
            Aggregation(FIXED, {"noise_multiplier": 1.0}),
            LOCAL,
            "adds noise on the server; a run has one of the two",
        ),
        (Aggregation("FedXgbBagging"), LOCAL, "aggregates trees"),
        (Aggregation("QFedAvg"), LOCAL, "weighs nodes by their loss"),
    ],
)
def test_privacy_that_cannot_be_kept_is_refused_with_the_remedy(
    aggregation: Aggregation, privacy: Privacy, message: str
) -> None:
    with pytest.raises(InvalidRunConfig, match=message):
        check_privacy(aggregation, privacy, rounds=30)


def test_the_least_noise_that_is_named_fits_and_a_little_less_does_not() -> None:
    least = least_noise(8.0, 30)

    check_privacy(Aggregation(FIXED, {"noise_multiplier": least * 1.0001}), Privacy(8.0), rounds=30)
    with pytest.raises(InvalidRunConfig):
        check_privacy(Aggregation(FIXED, {"noise_multiplier": least * 0.9999}), Privacy(8.0), rounds=30)


def test_only_strategies_whose_model_is_the_plain_mean_are_named_so(tmp_path: Path) -> None:
    means = {
        name
        for name, known in KNOWN.items()
        if not known.wraps and getattr(flower, name).aggregate_train is flower.FedAvg.aggregate_train
    }

    assert {name for name, known in KNOWN.items() if known.plain_mean} == means


@pytest.mark.parametrize(
    ("noise", "releases", "epsilon"),
    # Balle and Wang (2018), theorem 8, at delta 1e-5; n releases of sigma s are one of s / sqrt(n).
    [(1.0, 1, 4.3768), (1.0, 4, 9.9973), (5.0, 25, 4.3768)],
)
def test_the_epsilon_is_that_of_the_analytic_gaussian_mechanism(
    noise: float, releases: int, epsilon: float
) -> None:
    assert gaussian_epsilon(noise, releases) == pytest.approx(epsilon, rel=1e-4)


def test_no_noise_has_no_epsilon_and_no_release_costs_nothing() -> None:
    assert gaussian_epsilon(0, 1) is None
    assert gaussian_epsilon(0.01, 100) is None
    assert gaussian_epsilon(1.0, 0) == 0


def test_more_noise_and_fewer_releases_spend_less() -> None:
    values = [gaussian_epsilon(noise, 10) or math.inf for noise in (0.5, 1, 2, 4, 8)]

    assert values == sorted(values, reverse=True)
    assert math.isfinite(values[0])
