"""What runs inside Flower's ServerApp, over a grid in this process and without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedMedian

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_fl_coordinator.domain.errors import UnknownSchema
from aegis_fl_coordinator.domain.evaluation import Evaluation
from aegis_fl_coordinator.flower import SERVERAPP_DIR_VARIABLE
from aegis_fl_coordinator.runfile import CHECKPOINTS, BrokenRunFile, RunFile, run_folder
from aegis_fl_coordinator.serverapp import AppSpec, ExportedArrays, checkpoint
from aegis_fl_coordinator.serverapp.entry import NoMeasure, train
from aegis_fl_coordinator.serverapp.link import FileLink, RunStopped
from aegis_fl_coordinator.serverapp.mixin import NoResults
from aegis_fl_coordinator.testing.grid import FIRST_NODE, LocalGrid

NODES = {FIRST_NODE + number: f"nodes/site-{number + 1}" for number in range(3)}


@dataclass
class Notes:
    """A link that writes down what it hears; rounds after *stop_before* are refused."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    reports: list[pb.Round] = field(default_factory=list)
    stop_before: int = 99

    def await_round(self, number: int, count_nodes: Callable[[], int]) -> None:
        if number >= self.stop_before:
            raise RunStopped("stopped")
        self.asked.append((number, count_nodes()))

    def report_round(self, report: pb.Round) -> None:
        copy = pb.Round()
        copy.CopyFrom(report)
        self.reports.append(copy)


def adding_app(*, failing: tuple[int, ...] = ()) -> ClientApp:
    """Return an app whose training adds 1 to every number; the nodes in *failing* raise."""
    app = ClientApp()

    @app.train()
    def add(message: Message, context: Context) -> Message:
        if context.node_id in failing:
            raise RuntimeError("disk full")
        weights = message.content.array_records["arrays"]["w"].numpy() + np.float32(1)
        metrics = MetricRecord({"num-examples": 10, "train_loss": 0.5})
        content = RecordDict({"arrays": ArrayRecord({"w": Array(weights)}), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def spec(**changed: object) -> AppSpec:
    values: dict[str, object] = {
        "initial": ArrayRecord({"w": Array(np.zeros(3, np.float32))}),
        "evaluate": lambda arrays: {"mean": float(arrays["w"].numpy().mean())},
        "export": lambda arrays: ExportedArrays(arrays["w"].numpy().tobytes(), {"task": "adding"}),
    }
    return AppSpec(**(values | changed))  # type: ignore[arg-type]


def run_file(
    folder: Path, *, rounds: int = 3, min_nodes: int = 3, nodes: dict[int, str] = NODES, **changed: Any
) -> Path:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    RunFile("r1", rounds, min_nodes, trace, nodes, None, **changed).write(folder)
    return folder


def test_each_round_is_asked_for_trained_kept_and_reported(tmp_path: Path) -> None:
    link, folder = Notes(), run_file(tmp_path)

    train(LocalGrid(adding_app(), 3), folder, spec(), link)

    assert link.asked == [(1, 3), (2, 3), (3, 3)]
    assert [report.number for report in link.reports] == [1, 2, 3]
    assert [report.metrics["mean"] for report in link.reports] == [1.0, 2.0, 3.0]
    assert [report.metrics["train_loss"] for report in link.reports] == [0.5] * 3
    assert [report.node_results for report in link.reports] == [3] * 3
    kept = checkpoint.load(folder / CHECKPOINTS, 2)["w"].numpy()
    assert kept.tolist() == [2.0, 2.0, 2.0]


def test_a_report_carries_the_digest_of_its_checkpoint(tmp_path: Path) -> None:
    import hashlib

    link, folder = Notes(), run_file(tmp_path, rounds=1)

    train(LocalGrid(adding_app(), 3), folder, spec(), link)

    content = checkpoint.path(folder / CHECKPOINTS, 1).read_bytes()
    assert link.reports[0].checkpoint_sha256 == hashlib.sha256(content).hexdigest()


def test_the_last_model_is_exported_with_its_metrics(tmp_path: Path) -> None:
    train(LocalGrid(adding_app(), 3), run_file(tmp_path), spec(), Notes())

    description = json.loads((tmp_path / "model.json").read_text())
    assert np.frombuffer((tmp_path / "model.onnx").read_bytes(), np.float32).tolist() == [3.0] * 3
    assert description == {"schema_version": 1, "rounds": 3, "metrics": {"mean": 3.0}, "task": "adding"}


def test_a_node_that_fails_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    link = Notes()

    train(LocalGrid(adding_app(failing=(FIRST_NODE + 1,)), 3), run_file(tmp_path, rounds=1), spec(), link)

    (report,) = link.reports
    assert report.node_results == 2
    ((failure),) = report.node_failures
    assert failure.node == "nodes/site-2"
    assert "disk full" in failure.message
    states = [(one.node, pb.NodeOutcome.State.Name(one.state)) for one in report.node_outcomes]
    assert states == [
        ("nodes/site-1", "STATE_USED"),
        ("nodes/site-2", "STATE_FAILED"),
        ("nodes/site-3", "STATE_USED"),
    ]
    # Three float32 and the header of their array, to three nodes and from two.
    assert [(one.bytes_sent, one.bytes_received) for one in report.node_outcomes] == [
        (140, 140),
        (140, 0),
        (140, 140),
    ]
    assert (report.bytes_sent, report.bytes_received) == (420, 280)
    assert all(one.HasField("duration") for one in report.node_outcomes)


def test_a_round_without_any_result_ends_the_run_and_says_why(tmp_path: Path) -> None:
    grid = LocalGrid(adding_app(failing=tuple(NODES)), 3)

    with pytest.raises(NoResults, match=r"round 1 gave no model: .*disk full"):
        train(grid, run_file(tmp_path), spec(), Notes())


def test_nodes_that_do_not_belong_to_the_run_take_no_part(tmp_path: Path) -> None:
    link = Notes()
    nodes = {FIRST_NODE: "nodes/site-1", FIRST_NODE + 2: "nodes/site-3"}

    train(LocalGrid(adding_app(), 3), run_file(tmp_path, rounds=1, min_nodes=2, nodes=nodes), spec(), link)

    assert link.asked == [(1, 2)]
    assert link.reports[0].node_results == 2


def test_a_run_that_is_stopped_starts_no_further_round(tmp_path: Path) -> None:
    link = Notes(stop_before=2)

    with pytest.raises(RunStopped):
        train(LocalGrid(adding_app(), 3), run_file(tmp_path), spec(), link)

    assert [report.number for report in link.reports] == [1]
    assert not (tmp_path / "model.onnx").exists()


def test_any_strategy_of_flower_can_be_coordinated(tmp_path: Path) -> None:
    def median(nodes: int) -> FedMedian:
        return FedMedian(
            fraction_evaluate=0.0, min_train_nodes=nodes, min_evaluate_nodes=0, min_available_nodes=nodes
        )

    link = Notes()

    train(LocalGrid(adding_app(), 3), run_file(tmp_path, rounds=2), spec(strategy=median), link)

    assert [report.metrics["mean"] for report in link.reports] == [1.0, 2.0]


def measuring_app(*, failing: int = 0) -> ClientApp:
    """Return an adding app whose nodes measure a loss of 0.25; node *failing* raises instead."""
    app = adding_app()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        if context.node_id == failing:
            raise RuntimeError("no test set")
        metrics = MetricRecord({"num-examples": 10, "loss": 0.25})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=message)

    return app


@pytest.mark.parametrize(
    ("evaluation", "measured"),
    [
        (Evaluation.APP, {"mean"}),
        (Evaluation.FEDERATED, {"federated_loss"}),
        (Evaluation.CENTRAL, {"mean"}),
        (Evaluation.NONE, set()),
    ],
)
def test_the_run_says_who_measures(tmp_path: Path, evaluation: Evaluation, measured: set[str]) -> None:
    link = Notes()

    train(LocalGrid(measuring_app(), 3), run_file(tmp_path, rounds=1, evaluation=evaluation), spec(), link)

    assert link.reports[0].metrics.keys() == measured | {"train_loss"}
    assert json.loads((tmp_path / "model.json").read_text())["metrics"].keys() == measured


def test_nodes_that_cannot_measure_are_named_and_the_round_counts(tmp_path: Path) -> None:
    link = Notes()
    folder = run_file(tmp_path, rounds=1, evaluation=Evaluation.FEDERATED)

    train(LocalGrid(measuring_app(failing=FIRST_NODE), 3), folder, spec(), link)

    failure = link.reports[0].node_failures[0]
    assert (link.reports[0].node_results, failure.node) == (3, "nodes/site-1")
    assert failure.message.startswith("evaluation: ")
    assert "no test set" in failure.message
    assert link.reports[0].metrics["federated_loss"] == 0.25


def test_an_app_that_cannot_measure_centrally_is_refused_before_its_first_round(tmp_path: Path) -> None:
    link = Notes()
    folder = run_file(tmp_path, evaluation=Evaluation.CENTRAL)

    with pytest.raises(NoMeasure, match="no `evaluate` in its AppSpec"):
        train(LocalGrid(adding_app(), 3), folder, spec(evaluate=None), link)

    assert link.asked == []


def test_federated_evaluation_is_reported_beside_the_servers(tmp_path: Path) -> None:
    app = measuring_app()

    from flwr.serverapp.strategy import FedAvg

    def everywhere(nodes: int) -> FedAvg:
        return FedAvg(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)

    link = Notes()

    train(LocalGrid(app, 3), run_file(tmp_path, rounds=1), spec(strategy=everywhere), link)

    assert link.reports[0].metrics["federated_loss"] == 0.25
    assert link.reports[0].metrics["mean"] == 1.0


def test_without_a_coordinator_reports_go_to_a_file(tmp_path: Path) -> None:
    folder = run_file(tmp_path, rounds=2)

    train(LocalGrid(adding_app(), 3), folder, spec(), FileLink(folder, 3))

    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [(line["number"], line["metrics"]["mean"]) for line in lines] == [(1, 1.0), (2, 2.0)]


def test_without_a_coordinator_a_round_waits_for_nodes(tmp_path: Path) -> None:
    slept: list[float] = []
    counts = iter([0, 2, 3])

    FileLink(tmp_path, 3, sleep=slept.append).await_round(1, lambda: next(counts))

    assert slept == [1.0, 1.0]


def test_a_run_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = run_file(tmp_path / "r1")

    assert RunFile.read(folder).nodes == NODES
    assert RunFile.read(folder).name == "trainingRuns/r1"


def test_a_run_file_of_another_schema_version_is_refused_by_number(tmp_path: Path) -> None:
    path = run_file(tmp_path) / "run.json"
    path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 5'))

    with pytest.raises(UnknownSchema, match="has schema version 5; this reader knows 1 to 4"):
        RunFile.read(tmp_path)


def test_a_run_file_of_the_schema_version_before_is_read(tmp_path: Path) -> None:
    path = run_file(tmp_path) / "run.json"
    record = json.loads(path.read_text()) | {"schema_version": 1}
    for added in ("aggregation", "seed", "virtual", "privacy", "evaluation"):
        del record[added]
    path.write_text(json.dumps(record))

    assert RunFile.read(tmp_path).aggregation.strategy == ""


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema_version": 1}'])
def test_a_broken_run_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(BrokenRunFile):
        RunFile.read(tmp_path)


def test_a_process_that_nobody_started_for_a_run_finds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokenRunFile, match="there is no folder for run 'r1'"):
        run_folder("r1")

    monkeypatch.setenv(SERVERAPP_DIR_VARIABLE, str(tmp_path))
    for name in ("", "r1"):
        with pytest.raises(BrokenRunFile):
            run_folder(name)
