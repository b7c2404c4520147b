"""`aegis carbon run`: real commands, started, suspended and continued as a service plans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from libs.aegis_client.tests.conftest import Aegis, Deployment, serving

from aegis.carbon.v1 import plan_service_pb2 as pb
from aegis.carbon.v1 import plan_service_pb2_grpc as pb_grpc

COUNTER = """
import sys, time
for number in range(int(sys.argv[2])):
    with open(sys.argv[1], "a") as file:
        file.write(f"{time.time()}\\n")
    time.sleep(0.02)
"""


class Plans(pb_grpc.PlanServiceServicer):
    """Plans stretches of seconds, counted from the first question."""

    def __init__(self) -> None:
        self.stretches: list[tuple[float, float]] = [(0, 60)]
        self.jobs: list[pb.PlannedJob] = []
        self.first = 0.0

    async def PlanWindow(self, request: pb.PlanWindowRequest, context: Any) -> pb.PlanWindowResponse:
        self.first = self.first or time.time()
        self.jobs.append(request.job)
        spans = [pb.PlanSpan(start_time=self._at(a), end_time=self._at(b)) for a, b in self.stretches]
        return pb.PlanWindowResponse(plan=pb.Plan(zone="zones/GB", spans=spans, g_per_kwh=120, saving=0.3))

    async def BatchPlanWindows(self, request: Any, context: Any) -> pb.BatchPlanWindowsResponse:
        return pb.BatchPlanWindowsResponse()

    async def GetForecast(self, request: Any, context: Any) -> pb.GetForecastResponse:
        return pb.GetForecastResponse(zone=request.zone)

    def _at(self, seconds: float) -> Timestamp:
        moment = Timestamp()
        moment.FromNanoseconds(int((self.first + seconds) * 1e9))
        return moment


class PlanningDeployment(Deployment):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plans = Plans()

    def add_to(self, server: grpc.aio.Server) -> None:
        super().add_to(server)
        pb_grpc.add_PlanServiceServicer_to_server(self.plans, server)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[PlanningDeployment]:
    with serving(PlanningDeployment(tmp_path / "mesh")) as made:
        yield made


def counting(path: Path, count: int) -> list[str]:
    return ["--", sys.executable, "-c", COUNTER, str(path), str(count)]


def started(profile_file: Path, *arguments: str) -> subprocess.Popen[str]:
    program = "import sys; from aegis_client.cli.app import run; sys.exit(run(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        program,
        "--profile-file",
        str(profile_file),
        "carbon",
        "run",
        *arguments,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def moments(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_command_waits_for_its_window_and_gives_its_exit_code(
    aegis: Aegis, deployment: PlanningDeployment, tmp_path: Path
) -> None:
    deployment.plans.stretches = [(0.8, 3)]
    asked = time.time()
    script = f"echo ran > {tmp_path / 'out'}; exit 3"

    assert aegis("carbon", "run", "--duration", "2s", "--within", "30s", "--", "sh", "-c", script) == 3
    assert time.time() - asked >= 0.8
    assert (tmp_path / "out").read_text() == "ran\n"
    assert "starts: clean power (GB, 120 gCO2e/kWh expected, 30 % saved)" in aegis.err
    assert "ended with 3" in aegis.err


def test_a_command_that_may_stop_is_suspended_and_continued(
    aegis: Aegis, deployment: PlanningDeployment, tmp_path: Path
) -> None:
    deployment.plans.stretches = [(0, 0.8), (3, 60)]
    path = tmp_path / "moments"

    options = ("--duration", "19s", "--within", "300s", "--interruptible")
    assert aegis("carbon", "run", *options, *counting(path, 80)) == 0

    pauses = [b - a for a, b in zip(moments(path), moments(path)[1:], strict=False)]
    assert 80 == len(moments(path))
    assert max(pauses) > 0.9
    assert sorted(pauses)[-2] < max(pauses) / 2
    assert "suspended: waits for cleaner power" in aegis.err
    assert "continues: clean power" in aegis.err


def test_hooks_may_stand_in_for_the_signals(
    aegis: Aegis, deployment: PlanningDeployment, tmp_path: Path
) -> None:
    deployment.plans.stretches = [(0, 0.5), (2.2, 60)]
    note = tmp_path / "note"
    hooks = [f"--on-suspend=echo off $AEGIS_PID >> {note}", f"--on-resume=echo on $AEGIS_PID >> {note}"]
    path = tmp_path / "moments"

    options = ("--duration", "19s", "--within", "300s", "--interruptible", *hooks)
    assert aegis("carbon", "run", *options, *counting(path, 140)) == 0

    words = note.read_text().split()
    assert ["off", "on"] == words[::2]
    assert words[1] == words[3]


def test_without_anybody_to_ask_it_starts_at_the_latest_start(
    aegis: Aegis, deployment: PlanningDeployment, tmp_path: Path
) -> None:
    deployment.faults.orders["PlanWindow"] = [grpc.StatusCode.UNAVAILABLE] * 99
    path = tmp_path / "moments"
    asked = time.time()

    options = ("--duration", "1s", "--within", "4s", "--on-missing", "run_at_latest_start")
    assert aegis("carbon", "run", *options, *counting(path, 3)) == 0

    assert 1.5 < moments(path)[0] - asked < 4
    assert "no plan yet: UNAVAILABLE" in aegis.err
    assert "starts: latest start" in aegis.err


def test_signals_are_passed_on_and_wake_a_command_that_is_suspended(
    profile_file: Path, deployment: PlanningDeployment, tmp_path: Path
) -> None:
    deployment.plans.stretches = [(0, 0.5), (100, 200)]
    path = tmp_path / "moments"
    options = ("--duration", "60s", "--within", "1h", "--interruptible")
    process = started(profile_file, *options, *counting(path, 10_000))
    wait_until(lambda: len(moments(path)) > 0 and time.time() - moments(path)[-1] > 0.5)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)

    assert 128 + signal.SIGTERM == process.returncode, told
    assert "suspended: waits for cleaner power" in told


def test_a_signal_before_the_start_ends_the_wait(profile_file: Path, deployment: PlanningDeployment) -> None:
    deployment.plans.stretches = [(100, 200)]
    process = started(profile_file, "--duration", "60s", "--within", "1h", "--", "true")
    assert process.stderr is not None
    first, second = process.stderr.readline(), process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)

    assert "without a reservation (UNIMPLEMENTED)" in first
    assert "starts in" in second
    assert 128 + signal.SIGINT == process.returncode
    assert "stopped before it was started" in told


def test_a_suspended_command_goes_on_when_its_keeper_is_killed(
    profile_file: Path, deployment: PlanningDeployment, tmp_path: Path
) -> None:
    deployment.plans.stretches = [(0, 0.5), (100, 200)]
    path = tmp_path / "moments"
    options = ("--duration", "60s", "--within", "1h", "--interruptible")
    process = started(profile_file, *options, *counting(path, 10_000))
    wait_until(lambda: len(moments(path)) > 0 and time.time() - moments(path)[-1] > 0.5)
    count = len(moments(path))
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.kill()
    process.wait(30)
    assert process.stderr is not None
    process.stderr.close()
    try:
        wait_until(lambda: len(moments(path)) > count + 5)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--duration", "1h", "--within", "2h", "--", "no-such-command"], "'no-such-command' is not found"),
        (["--duration", "0", "--within", "2h", "--", "true"], "no time above 0"),
        (["--duration", "soon", "--within", "2h", "--", "true"], "--duration 'soon' is no duration"),
        (["--duration", "1h", "--within", "2h", "--on-missing", "panic", "--", "true"], "not one of run_now"),
        (["--duration", "1h", "--within", "2h"], "Missing argument"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_wait(
    aegis: Aegis, deployment: PlanningDeployment, arguments: list[str], told: str
) -> None:
    assert aegis("carbon", "run", *arguments) == 2
    assert told in aegis.err
    assert deployment.plans.jobs == []
