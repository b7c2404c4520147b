"""`aegis fl simulate`: rounds are printed, the same seed repeats, and mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from aegis_common.errors import ConfigurationError
from aegis_fl_coordinator.commands.simulate import app
from aegis_fl_coordinator.domain.errors import InvalidRunConfig, RunFailed

STEPS: Final = str(Path(__file__).parent / "apps" / "steps")


def simulate(*arguments: str) -> str:
    result = CliRunner().invoke(app, [STEPS, *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_each_round_is_printed_and_the_same_seed_repeats() -> None:
    reports = [
        [
            json.loads(line)
            for line in simulate("--nodes", "4", "--output", "json", "--seed", "7").splitlines()
        ]
        for _ in range(2)
    ]

    assert [report["number"] for report in reports[0]] == [1, 2, 3]
    assert [report["node_results"] for report in reports[0]] == [4, 4, 4]
    shas = [[report["checkpoint_sha256"] for report in run] for run in reports]
    assert shas[0] == shas[1]


def test_a_node_that_fails_is_printed_under_its_round() -> None:
    text = simulate("--rounds", "1", "--config", "fault=raise", "--strategy", "FedMedian")

    first, failed = text.splitlines()
    assert first.startswith("round 1/1  calls 1  mean ")
    assert first.endswith("nodes 2")
    assert failed == "  nodes/virtual-0001: RuntimeError('disk full')"


def test_what_is_kept_in_a_folder_goes_on_from_there(tmp_path: Path) -> None:
    folder = str(tmp_path / "kept")
    first = simulate("--rounds", "2", "--folder", folder)
    more = simulate("--rounds", "3", "--folder", folder)

    assert [line.split()[1] for line in first.splitlines()[:-1]] == ["1/2", "2/2"]
    # The newest round that was done before is reported once more, as it was.
    assert [line.split()[1] for line in more.splitlines()[:-1]] == ["2/3", "3/3"]
    assert more.splitlines()[-1] == f"model: {folder}/model.onnx"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["no-such-app"], ConfigurationError, "neither the folder of a Flower app nor a bundled one"),
        ([STEPS, "--strategy", "Krum", "--parameter", "num_malicious_nodes=1"], InvalidRunConfig, "2f"),
        ([STEPS, "--config", "falt=raise"], InvalidRunConfig, "falt: not one of fault"),
        ([STEPS, "--nodes", "1", "--strategy", "no_module:X"], RunFailed, "cannot be imported"),
    ],
)
def test_a_mistake_is_told(arguments: list[str], error: type[Exception], message: str) -> None:
    result = CliRunner().invoke(app, arguments)

    assert isinstance(result.exception, error)
    assert message in str(result.exception)


@pytest.mark.parametrize("pair", ["fault", "=raise"])
def test_what_is_no_pair_is_wrong_usage(pair: str) -> None:
    result = CliRunner().invoke(app, [STEPS, "--config", pair])

    assert result.exit_code == 2
    assert "is not NAME=VALUE" in result.output
