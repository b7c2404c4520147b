"""`aegis fl`: training runs, their rounds and the nodes that train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aegis.fl.v1 import training_service_pb2 as fl

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Aegis, Deployment


def test_a_training_run_is_followed_line_by_line(aegis: Aegis, deployment: Deployment) -> None:
    gate = fl.GateDecision(clean=True, intensity_g_per_kwh=120, threshold_g_per_kwh=150, source="replay")
    report = fl.Round(number=1, metrics={"loss": 0.2, "accuracy": 0.9}, node_results=3, gate=gate)
    done = deployment.training.run(fl.TrainingRun.STATE_SUCCEEDED)
    deployment.training.scripts = [
        [
            fl.WatchTrainingRunResponse(round=report),
            fl.WatchTrainingRunResponse(state_change=done),
            fl.WatchTrainingRunResponse(end=done),
        ]
    ]

    assert aegis("fl", "run", "digits", "--rounds", "0") == 2
    asked = "--rounds 3 --config lr=0.1 --strategy Krum --parameter num_malicious_nodes=1 --round-timeout 5m"
    asked += " --epsilon-budget 8 --local-noise 2 0.5"
    asked += " --evaluation none --retention 7d --node-zone GB --node-label scanner=mri"
    asked += " --forecast --min-saving 0.1 --max-total-wait 6h"
    assert aegis("fl", "run", "digits", *asked.split()) == 0

    expected = "round 1/3  accuracy 0.9, loss 0.2  gate clean (120 of 150 gCO2e/kWh, replay)  3 nodes  -"
    assert expected in aegis.out.splitlines()
    assert ["SUCCEEDED" in line for line in aegis.out.splitlines()[-2:]] == [False, True]
    sent = deployment.training.created[0].training_run
    assert sent.app_config["lr"] == 0.1
    assert (sent.aggregation.strategy, sent.aggregation.round_timeout.seconds) == ("Krum", 300)
    assert sent.aggregation.parameters["num_malicious_nodes"] == 1
    noise = sent.privacy.local_noise
    assert (sent.privacy.epsilon_budget, noise.clipping_norm, noise.noise_multiplier) == (8, 2, 0.5)
    assert sent.evaluation == fl.TrainingRun.EVALUATION_NONE
    assert sent.retention.seconds == 7 * 86400
    assert sent.node_selector == fl.NodeSelector(zones=["zones/GB"], labels={"scanner": "mri"})
    assert sent.carbon_policy.forecast.min_saving == 0.1
    assert sent.carbon_policy.max_total_wait.seconds == 6 * 3600


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("--parameter beta", "--parameter 'beta' is not NAME=VALUE"),
        (
            "--round-timeout soon",
            "--round-timeout 'soon' is no duration; for example 90s, 5m, 2h, 1h30m or 1d",
        ),
        ("--engine cloud", "'cloud' is not one of 'deployment', 'in-process'"),
    ],
)
def test_a_wrong_option_of_a_run_is_named(aegis: Aegis, option: str, fault: str) -> None:
    assert aegis("fl", "run", "digits", *option.split()) == 2
    assert fault in aegis.err


def test_a_run_that_fails_ends_with_1(aegis: Aegis, deployment: Deployment) -> None:
    failed = deployment.training.run(fl.TrainingRun.STATE_FAILED)
    deployment.training.scripts = [[fl.WatchTrainingRunResponse(end=failed)]]

    assert aegis("fl", "watch", "r1", "-o", "json") == 1
    assert json.loads(aegis.out)["run"]["state"] == "FAILED"


def test_rounds_and_what_each_node_did_in_them(aegis: Aegis, deployment: Deployment) -> None:
    outcomes = [
        fl.NodeOutcome(node="nodes/a", state=fl.NodeOutcome.STATE_USED, bytes_sent=2048, bytes_received=1024),
        fl.NodeOutcome(node="nodes/b", state=fl.NodeOutcome.STATE_LATE, message="no answer within 60 s"),
    ]
    first = fl.Round(number=1, metrics={"accuracy": 0.5}, attempt=2, node_outcomes=outcomes, bytes_sent=4096)
    first.energy.CopyFrom(fl.RoundEnergy(kwh=0.0015, grams=0.6, estimated=True))
    first.unmetered_nodes = 1
    deployment.training.rounds = {
        "": fl.ListRoundsResponse(rounds=[first], next_page_token="t"),
        "t": fl.ListRoundsResponse(rounds=[fl.Round(number=2, node_results=2)]),
    }

    assert aegis("fl", "rounds", "r1") == 0
    first_line, second_line = (" ".join(line.split()) for line in aegis.out.splitlines()[1:])
    energy = "~1.5 Wh, 0.6 g, without 1 nodes"
    assert first_line == f"1 accuracy 0.5 - 1 of 2 4 KiB / 0 B - (2 attempts) {energy}"
    assert second_line == "2 no metrics - 2 0 B / 0 B - -"
    assert aegis("fl", "rounds", "r1", "--nodes") == 0
    assert aegis.out.splitlines()[2].endswith("late: no answer within 60 s")
    assert aegis("fl", "rounds", "r1", "-o", "json") == 0
    assert json.loads(aegis.out)[0]["node_outcomes"][0]["state"] == "USED"


def test_runs_nodes_and_models_are_managed(aegis: Aegis, tmp_path: Path, deployment: Deployment) -> None:
    (tmp_path / "pub.pem").write_text("PEM")

    assert aegis("fl", "list") == 0
    assert aegis("fl", "get", "r1") == 0
    assert "strategy  the app's own" in aegis.out
    assert aegis("fl", "rounds", "r1") == 0
    assert aegis.out == "no rounds yet\n"
    assert aegis("fl", "pause", "r1", "--now", "-o", "json") == 0
    paused = json.loads(aegis.out)
    assert (paused["state"], paused["pause"]["immediate"]) == ("PAUSING", True)
    assert aegis("fl", "pause", "r1") == 0
    assert "as soon as the round is finished, by sdk" in aegis.out
    assert aegis("fl", "resume", "r1", "-o", "json") == 0
    assert json.loads(aegis.out)["state"] == "PENDING"
    assert aegis("fl", "cancel", "r1", "-o", "json") == 0
    assert json.loads(aegis.out)["state"] == "CANCELLED"
    assert aegis("fl", "nodes", "register", "site-1", "--public-key", str(tmp_path / "pub.pem")) == 0
    assert aegis("fl", "nodes") == 0
    assert "site-1" in aegis.out
    assert aegis("fl", "nodes", "remove", "site-1") == 0
    assert aegis("fl", "app", "list") == 0
    assert "own  NOT_APPROVED" in aegis.out
    assert aegis("fl", "app", "approve", "own", "b" * 64) == 0
    assert aegis.out == f"own may run with digest {'b' * 64}\n"
    assert aegis("fl", "app", "revoke", "own") == 0
    assert aegis.out == "own is revoked; runs cancelled: r1\n"
    assert aegis("models", "list") == 0
    assert aegis("models", "describe", "digits") == 0
    assert "production -> v2" in aegis.out
    assert aegis("models", "versions", "digits", "-o", "json") == 0
    assert [item["name"] for item in json.loads(aegis.out)][1] == "models/digits/versions/v1"
    assert aegis("models", "promote", "digits", "v1") == 0
    assert deployment.models.production == "v1"
