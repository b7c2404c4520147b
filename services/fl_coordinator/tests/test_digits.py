"""The bundled app: it learns, repeats exactly, and its ONNX file says what torch says."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord

from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.runfile import CHECKPOINTS, RunFile
from aegis_fl_coordinator.serverapp import AppSpec, ExportedArrays
from aegis_fl_coordinator.serverapp.entry import train
from aegis_fl_coordinator.serverapp.link import FileLink
from aegis_fl_coordinator.testing.grid import FIRST_NODE, LocalGrid

pytestmark = pytest.mark.training
pytest.importorskip("torch")

CONFIG = {"seed": 0, "learning-rate": 0.1, "local-epochs": 2}


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the modules of the app, by name."""
    monkeypatch.syspath_prepend(str(BUNDLED / "digits"))
    modules: dict[str, ModuleType] = {
        name: importlib.import_module(f"aegis_digits.{name}")
        for name in ("task", "export", "client_app", "server_app")
    }
    return SimpleNamespace(**modules)


def test_the_shards_share_nothing_and_leave_the_held_out_digits_alone(digits: Any) -> None:
    sizes = [len(digits.task.shard(number, 3)[0]) for number in range(3)]

    assert sum(sizes) + len(digits.task.held_out()[0]) == 1797
    assert max(sizes) - min(sizes) <= 1


def test_the_digits_are_scikit_learns(digits: Any) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.data))[: digits.task.HELD_OUT]

    images, labels = digits.task.held_out()

    assert np.array_equal(images.numpy() * 16, bunch.data[order])
    assert np.array_equal(labels.numpy(), bunch.target[order])


@pytest.mark.parametrize("partition", [-1, 3])
def test_a_shard_that_is_not_there_is_refused(digits: Any, partition: int) -> None:
    with pytest.raises(ValueError, match=f"partition-id is {partition}; it must be 0 to 2"):
        digits.task.shard(partition, 3)


def run_digits(digits: Any, folder: Path) -> bytes:
    """Train three rounds over three nodes in this process and return the last checkpoint."""
    torch = importlib.import_module("torch")
    nodes = {FIRST_NODE + number: f"nodes/site-{number + 1}" for number in range(3)}
    RunFile("r1", 3, 3, "00-" + "1" * 32 + "-" + "2" * 16 + "-01", nodes, None).write(folder)
    torch.manual_seed(0)
    network_of = digits.server_app.network_of
    spec = AppSpec(
        initial=ArrayRecord(digits.task.Network().state_dict()),
        evaluate=lambda arrays: digits.task.score(network_of(arrays), *digits.task.held_out()),
        export=lambda arrays: ExportedArrays(
            digits.export.to_onnx(network_of(arrays)), digits.export.describe()
        ),
        train_config=CONFIG,
    )
    train(LocalGrid(digits.client_app.app, 3), folder, spec, FileLink(folder, 3))
    return (folder / CHECKPOINTS / "round-00003.npz").read_bytes()


def test_it_learns_and_its_onnx_file_classifies_the_held_out_digits(digits: Any, tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    run_digits(digits, tmp_path)

    model = onnx.load_from_string((tmp_path / "model.onnx").read_bytes())
    images, labels = digits.task.held_out()
    (logits,) = ReferenceEvaluator(model).run(None, {"input": images.numpy()})
    accuracy = float((np.asarray(logits).argmax(1) == labels.numpy()).mean())
    assert accuracy > 0.9
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "Gemm"]
    assert ([i.name for i in model.graph.input], [o.name for o in model.graph.output]) == (
        ["input"],
        ["logits"],
    )
    assert f'"accuracy": {accuracy:.4f}'[:16] in (tmp_path / "model.json").read_text()


def test_a_repeat_gives_the_same_parameters(digits: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    assert run_digits(digits, first) == run_digits(digits, second)
