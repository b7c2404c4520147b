"""The engine of one machine with real processes: what nodes are told, and what becomes of those that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from aegis_fl_coordinator.adapters.flower_control import build_bundle
from aegis_fl_coordinator.domain.nodes import virtual_nodes
from aegis_fl_coordinator.domain.strategies import Aggregation
from aegis_fl_coordinator.inprocess.launch import failure, launch, stop
from aegis_fl_coordinator.runfile import CHECKPOINTS, ROUNDS_FILE, RUN_KEY, RunFile
from aegis_fl_coordinator.serverapp import checkpoint

STEPS: Final = Path(__file__).parent / "apps" / "steps"
TRACE: Final = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


def run_file(folder: Path, *, rounds: int = 3, nodes: int = 3, **changed: Any) -> None:
    values: dict[str, Any] = {"seed": 1, "virtual": True, **changed}
    RunFile(folder.name, rounds, nodes, TRACE, virtual_nodes(nodes), None, **values).write(folder)


def steps(folder: Path, *, workers: int = 2, config: dict[str, Any] | None = None, **changed: Any) -> int:
    """Run the app to its end and return the exit code."""
    run_file(folder, **changed)
    process = launch(folder, build_bundle(STEPS), {RUN_KEY: folder.name, **(config or {})}, workers=workers)
    try:
        return process.wait(60)
    finally:
        stop(process)


def reports(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / ROUNDS_FILE).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "duration"} for line in lines]


def means(folder: Path) -> list[float]:
    return [report["metrics"]["mean"] for report in reports(folder)]


def test_the_same_seed_gives_the_same_model_however_many_processes_there_are(tmp_path: Path) -> None:
    assert steps(tmp_path / "one", workers=1) == 0
    assert steps(tmp_path / "two", workers=3) == 0
    assert steps(tmp_path / "other", workers=1, seed=2) == 0

    shas = [
        [one["checkpoint_sha256"] for one in reports(tmp_path / name)] for name in ("one", "two", "other")
    ]
    assert shas[0] == shas[1]
    assert shas[0] != shas[2]


def test_each_node_has_its_partition_and_keeps_its_own_state_between_rounds(tmp_path: Path) -> None:
    assert steps(tmp_path / "r", nodes=4) == 0

    assert [report["metrics"]["calls"] for report in reports(tmp_path / "r")] == pytest.approx([1, 2, 3])
    assert [report["node_results"] for report in reports(tmp_path / "r")] == [4, 4, 4]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "RuntimeError('disk full')"),
        ("crash", "the client process died: exit code 7"),
        ("hang", "no answer within 6 s"),
    ],
)
def test_a_client_that_fails_is_named_and_the_run_goes_on(tmp_path: Path, fault: str, reason: str) -> None:
    assert (
        steps(tmp_path / "r", config={"fault": fault, "timeout": 6.0 if fault == "hang" else 60.0}, rounds=1)
        == 0
    )

    for report in reports(tmp_path / "r"):
        assert report["node_failures"] == [{"node": "nodes/virtual-0001", "message": reason}]
        states = [one["state"].removeprefix("STATE_") for one in report["node_outcomes"]]
        assert states == ["USED", "LATE" if fault == "hang" else "FAILED", "USED"]
        assert report["node_results"] == 2


def test_what_an_app_prints_does_not_get_between_the_frames(tmp_path: Path) -> None:
    assert steps(tmp_path / "r", config={"fault": "print"}, rounds=1) == 0

    assert "node_failures" not in reports(tmp_path / "r")[0]
    assert "not a frame" in (tmp_path / "r" / "clients.log").read_text()


def test_below_the_quorum_the_run_ends_and_says_why(tmp_path: Path) -> None:
    code = steps(tmp_path / "r", config={"fault": "raise"}, aggregation=Aggregation(quorum=3))

    assert code == 1
    assert failure(tmp_path / "r") == (
        "NoResults: round 1 gave no model: 2 of 3 nodes gave a usable result, the quorum is 3: "
        "RuntimeError('disk full')"
    )


def test_an_app_that_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run_file(folder)
    process = launch(folder, build_bundle(STEPS), {RUN_KEY: folder.name}, workers=1)
    (folder / "app" / "steps_app.py").write_text("import nothing_of_that_name")

    code = process.wait(60)
    stop(process)

    assert code == 1
    assert "No module named 'nothing_of_that_name'" in failure(folder)


def wait_for_round(folder: Path, number: int, process: psutil.Process) -> None:
    file = checkpoint.path(folder / CHECKPOINTS, number)
    while not file.exists():
        assert process.is_running()
        try:
            process.wait(0.02)
        except psutil.TimeoutExpired:
            continue


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_with_the_same_curve(tmp_path: Path) -> None:
    assert steps(tmp_path / "whole", rounds=6) == 0
    folder = tmp_path / "killed"
    config: dict[str, Any] = {RUN_KEY: "killed", "pause": 0.1}
    run_file(folder, rounds=6)
    bundle = build_bundle(STEPS)
    process = launch(folder, bundle, config, workers=2)
    tree = psutil.Process(process.pid)
    wait_for_round(folder, 2, tree)
    clients = tree.children(recursive=True)
    stop(process)
    gone, alive = psutil.wait_procs(clients, timeout=10)

    process = launch(folder, bundle, config, workers=2)
    code = process.wait(60)
    stop(process)

    assert (code, len(gone), alive) == (0, 2, [])
    numbers = [report["number"] for report in reports(folder)]
    assert sorted(set(numbers)) == [1, 2, 3, 4, 5, 6]
    # The report of the round before the end is given once more, for nobody knows whether it came through.
    assert len(numbers) <= 7
    by_number = {report["number"]: report["checkpoint_sha256"] for report in reports(folder)}
    assert list(by_number.values()) == [one["checkpoint_sha256"] for one in reports(tmp_path / "whole")]


def test_a_broken_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert steps(folder, rounds=3) == 0
    before = means(folder)
    (folder / ROUNDS_FILE).unlink()
    checkpoint.path(folder / CHECKPOINTS, 3).write_bytes(b"half a file")

    assert steps(folder, rounds=3) == 0

    assert means(folder) == before[1:]


def test_an_app_of_flower_that_knows_no_coordinator_runs_too(tmp_path: Path) -> None:
    app = tmp_path / "plain"
    app.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        (app / name).write_text((STEPS / name).read_text())
    text = (STEPS / "steps_app.py").read_text()
    head, _, _ = text.partition('    """Let the numbers grow."""')
    (app / "steps_app.py").write_text(
        f"{head}    from flwr.serverapp.strategy import FedAvg\n"
        "    initial = ArrayRecord({'w': Array(np.zeros(3))})\n"
        "    strategy = FedAvg(fraction_evaluate=0.0)\n"
        "    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=2)\n"
        "    print('calls', result.train_metrics_clientapp[2]['calls'])\n"
    )
    folder = tmp_path / "r"
    run_file(folder)
    process = launch(folder, build_bundle(app), {RUN_KEY: "r"}, workers=2)

    code = process.wait(60)
    stop(process)

    assert code == 0
    assert "calls 2.0" in (folder / "serverapp.log").read_text()
