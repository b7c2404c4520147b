from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aegis.fl.v1 import training_service_pb2 as fl
from aegis_client import Gate, NodeFailure, Round
from aegis_client.cli.output import print_table, seconds
from aegis_client.cli.run_text import gate_text, round_line

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Deployment

AEGIS = [sys.executable, "-c", "from aegis_client.cli.app import main; main()"]


def gate(**changes: object) -> Gate:
    fields: dict[str, object] = {
        "clean": True,
        "reason": "BELOW_THRESHOLD",
        "intensity_g_per_kwh": 120.0,
        "threshold_g_per_kwh": 150.0,
        "source": "uk",
        "waited": timedelta(0),
    }
    return Gate(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (gate(), "clean (120 of 150 gCO2e/kWh, uk)"),
        (gate(intensity_g_per_kwh=0.0), "clean (0 of 150 gCO2e/kWh, uk)"),
        (gate(waited=timedelta(minutes=3)), "clean (120 of 150 gCO2e/kWh, uk) after 3 min 0 s"),
        (gate(clean=False, reason="MAX_WAIT", intensity_g_per_kwh=None), "max wait"),
        (None, "-"),
    ],
)
def test_the_gate_is_told_with_the_numbers_it_rests_on(decision: Gate | None, expected: str) -> None:
    assert gate_text(decision) == expected


def test_a_round_names_the_nodes_that_failed() -> None:
    report = Round(
        number=2,
        gate=None,
        metrics={},
        node_results=2,
        node_failures=(NodeFailure(node="nodes/site-3", message="out of memory"),),
        duration=timedelta(seconds=4.25),
        checkpoint_sha256="",
    )

    assert round_line(report, 0) == (
        "round 2/?  no metrics  gate -  2 nodes, failed: site-3: out of memory  4.25 s"
    )


def test_durations_are_short() -> None:
    spans = [timedelta(seconds=0.4213), timedelta(seconds=59.99), timedelta(seconds=125), timedelta(hours=2)]

    assert [seconds(span) for span in [*spans, None]] == ["421 ms", "60 s", "2 min 5 s", "2 h 0 min", "-"]


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("long cell", 1), ("x", 22)])
    print_table(("a",), [], empty="no rows")

    assert capsys.readouterr().out == "A          B\nlong cell  1\nx          22\nno rows\n"


def read_all(terminal: int) -> str:
    """Return what a terminal showed until its other side was closed."""
    shown = io.BytesIO()
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            return shown.getvalue().decode()
        if not chunk:
            return shown.getvalue().decode()
        shown.write(chunk)


def test_a_terminal_shows_rounds_live(deployment: Deployment, profile_file: Path) -> None:
    report = fl.Round(number=1, metrics={"accuracy": 0.9}, node_results=3)
    done = deployment.training.run(fl.TrainingRun.STATE_SUCCEEDED)
    deployment.training.scripts = [
        [fl.WatchTrainingRunResponse(round=report), fl.WatchTrainingRunResponse(end=done)]
    ]
    ours, theirs = pty.openpty()
    command = [*AEGIS, "--profile-file", str(profile_file), "fl", "watch", "r1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}

    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = read_all(ours)
    os.close(ours)

    assert process.returncode == 0
    assert "carbon gate" in shown
    assert "accuracy 0.9" in shown
    assert "1/3" in shown


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_go_on(
    deployment: Deployment, profile_file: Path
) -> None:
    standing = fl.WatchTrainingRunResponse(resume_token="1", state_change=deployment.training.run())
    deployment.training.scripts = [[standing, None]]
    command = [*AEGIS, "--profile-file", str(profile_file), "fl", "watch", "r1"]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)

    assert line == "r1  RUNNING\n"
    assert process.returncode == 130
    assert printed.strip() == "r1 goes on; follow it: aegis fl watch r1; stop it: aegis fl cancel r1"
