"""`aegis fl export`: the file of the round that was asked for, or was best."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from aegis.fl.v1 import training_service_pb2 as fl

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Aegis, Deployment


def parameters(value: float) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{"layer.weight": np.full((2, 3), value, np.float32)})
    return buffer.getvalue()


@pytest.fixture
def trained(deployment: Deployment) -> Deployment:
    figures = {1: (0.5, 2.0), 2: (0.9, 1.0), 3: (0.8, 0.4)}
    deployment.training.models = {number: parameters(number) for number in figures}
    rounds = [
        fl.Round(number=number, metrics={"accuracy": accuracy, "loss": loss})
        for number, (accuracy, loss) in figures.items()
    ]
    deployment.training.rounds = {"": fl.ListRoundsResponse(rounds=rounds)}
    return deployment


@pytest.mark.parametrize(
    ("options", "number"),
    [("", 3), ("--round last", 3), ("--round 1", 1), ("--round best", 2), ("--round best --metric loss", 3)],
)
def test_the_parameters_of_the_round_that_is_meant_are_saved(
    trained: Deployment, aegis: Aegis, tmp_path: Path, options: str, number: int
) -> None:
    assert aegis("fl", "export", "r1", tmp_path / "model.npz", "-o", "json", *options.split()) == 0

    with np.load(tmp_path / "model.npz") as saved:
        assert saved["layer.weight"].tolist() == [[number] * 3] * 2
    assert json.loads(aegis.out)["round"] == number


def test_torch_loads_what_is_saved_for_it(trained: Deployment, aegis: Aegis, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    assert aegis("fl", "export", "r1", tmp_path / "model.pt", "--format", "torch") == 0

    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["layer.weight"].tolist() == [[3.0] * 3] * 2


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("--round first", "--round 'first' is no number of a round, nor best or last"),
        ("--round 0", "--round '0' is no number of a round"),
        ("--round best --metric f1", "--metric 'f1' is none of the run's: accuracy, loss"),
        ("--format onnx --round 2", "--round 2 is for npz and torch"),
    ],
)
def test_what_cannot_be_exported_is_named(
    trained: Deployment, aegis: Aegis, tmp_path: Path, options: str, fault: str
) -> None:
    assert aegis("fl", "export", "r1", tmp_path / "model", *options.split()) == 2
    assert fault in aegis.err
    assert not (tmp_path / "model").exists()
