from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import grpc
import pytest
import typer

from aegis.agent.v1 import replica_pb2 as replica
from aegis_client.cli import lazy
from aegis_client.cli.app import AegisGroup, run
from aegis_common.errors import AegisError, PermissionDenied, Unauthenticated

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Aegis, Deployment

HEAVY = ("rich", "grpc", "httpx", "google.protobuf", "aegis_client.client", "importlib.metadata", "asyncio")


def imported(*arguments: str) -> set[str]:
    """Return the modules that a fresh process has after a command, and check that it ended well."""
    script = (
        "import sys, aegis_client.cli.app as app; code = app.run(sys.argv[1:]); "
        "print('\\n'.join(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    assert imported("--help").isdisjoint(HEAVY)


@pytest.mark.parametrize("group", ["tools", "carbon", "fl", "models", "audit"])
def test_the_help_of_a_group_imports_nothing_heavy(group: str) -> None:
    assert imported(group, "--help").isdisjoint({"rich", "grpc", "httpx", "google.protobuf"})


def test_help_names_every_command_and_exit_code(aegis: Aegis) -> None:
    assert aegis("--help") == 0

    for name in AegisGroup.known:
        assert f"\n  {name} " in aegis.out
    assert "124 the time was up" in aegis.out.replace("\n  ", " ")


def test_tools_are_listed_described_and_run(aegis: Aegis, tmp_path: Path) -> None:
    assert aegis("tools", "list") == 0
    assert aegis.out.splitlines()[0].split() == ["TOOL", "VERSION", "DESCRIPTION"]
    assert aegis("tools", "describe", "echo") == 0
    assert '"maxProperties": 3' in aegis.out

    assert aegis("tools", "run", "echo", "--json", '{"n": 3}', "--arg", "text=hi you", "--arg", 'id="7"') == 0
    assert json.loads(aegis.out) == {"n": 3, "text": "hi you", "id": "7"}
    assert "warning: an echo" in aegis.err


def test_a_tool_gets_files_and_json(aegis: Aegis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": [1]}'))

    code = aegis(
        "tools", "run", "echo", "--json", "-", "--file", f"image={tmp_path / 'cat.png'}", "-o", "json"
    )

    found = json.loads(aegis.out)
    assert code == 0
    assert found["parts"] == [
        {"json": {"a": [1]}},
        {"data": "iVBORw==", "name": "image", "media_type": "image/png", "filename": "cat.png"},
    ]
    assert len(found["trace_id"]) == 32


def test_raw_bytes_go_to_a_file(aegis: Aegis, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"\x00\x01")

    assert (
        aegis("tools", "run", "echo", "--file", f"x={tmp_path / 'in.bin'}", "--out", str(tmp_path / "o")) == 0
    )
    assert (tmp_path / "o").read_bytes() == b"\x00\x01"
    assert aegis("tools", "run", "echo", "--arg", "a=1", "--out", str(tmp_path / "o")) == 2
    assert "gave 0 results of raw bytes" in aegis.err


def test_carbon_says_what_the_decision_rests_on(aegis: Aegis) -> None:
    assert aegis("carbon", "check", "GB", "--max-intensity", "100") == 0
    assert "WAIT" in aegis.out
    assert "120 gCO2e/kWh (average, actual)" in aegis.out
    assert aegis("carbon", "check", "-o", "json") == 0
    assert json.loads(aegis.out)["intensity"]["age_s"] == 5.0
    assert aegis("carbon", "intensity", "GB") == 0
    assert aegis("carbon", "zones") == 0
    assert "GB (default)" in aegis.out


def test_curl_is_printed_without_any_secret(aegis: Aegis, deployment: Deployment) -> None:
    assert aegis("tools", "run", "echo", "--arg", "a='", "--timeout", "5", "--show-curl") == 0
    assert f"https://localhost:{deployment.machines}/v1/tools/echo:dispatch" in aegis.out
    assert "--cert" in aegis.out
    assert '"timeout":"5s"' in aegis.out
    assert deployment.calls("Dispatch") == []

    assert aegis("--profile", "people", "carbon", "check", "GB", "--show-curl") == 0
    assert "/v1/zones/GB:checkSchedule" in aegis.out
    assert "Bearer $(cat" in aegis.out
    assert "a-token" not in aegis.out
    assert aegis("carbon", "check", "--show-curl") == 0
    assert "/v1/carbon:checkSchedule" in aegis.out


def test_a_promotion_says_where_it_is_live_and_where_it_is_not(aegis: Aegis, deployment: Deployment) -> None:
    here, there = (replica.ReplicaStatus(replica=f"agent-{name}") for name in "12")
    here.state = there.state = replica.ReplicaStatus.STATE_LIVE
    deployment.models.replicas = [here, there]
    assert aegis("models", "promote", "digits", "v1") == 0
    assert (aegis.out.splitlines()[-1], aegis.err) == ("live on all 2 agents", "")

    there.state, there.message = replica.ReplicaStatus.STATE_LAGGING, "it has not taken the change over yet"
    assert aegis("models", "promote", "digits", "v2") == 0
    assert aegis.err == "agent-2: LAGGING: it has not taken the change over yet\n"
    assert "live on" not in aegis.out
    assert aegis("models", "promote", "digits", "v2", "-o", "json") == 0
    assert [item["state"] for item in json.loads(aegis.out)["replicas"]] == ["LIVE", "LAGGING"]


def test_a_tool_file_is_added_listed_and_removed(
    aegis: Aegis, deployment: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "shout.py").write_text("code")

    assert aegis("tools", "add", str(tmp_path / "shout.py")) == 0
    assert aegis.out == "shout: shout\n"
    assert aegis.err == "agent-2: REFUSED: no such package\n"
    assert aegis("tools", "files") == 0
    assert aegis.out.splitlines()[1].split() == ["shout", "shout", "d" * 12, "ann", "-"]
    assert aegis("tools", "files", "-o", "json") == 0
    assert json.loads(aegis.out)[0]["name"] == "toolFiles/shout"
    deployment.tool_files.replicas.pop()
    assert aegis("tools", "remove", "shout") == 0
    assert (aegis.out, aegis.err, deployment.tool_files.sources) == ("shout is removed\n", "", {})
    assert aegis("tools", "add", str(tmp_path / "nowhere.py")) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, 1),
        (grpc.StatusCode.UNAUTHENTICATED, 3),
        (grpc.StatusCode.PERMISSION_DENIED, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 124),
    ],
)
def test_each_failure_has_its_exit_code(
    aegis: Aegis, deployment: Deployment, code: grpc.StatusCode, expected: int
) -> None:
    deployment.faults.orders["Dispatch"] = [code]

    assert aegis("tools", "run", "echo") == expected
    assert aegis.err.startswith("aegis: broken on the way\n")
    assert "Traceback" not in aegis.err


def test_an_error_says_what_where_and_how_to_go_on(aegis: Aegis, profile_file: Path) -> None:
    assert aegis("tools", "run", "nope") == 1

    lines = [line.split(None, 1) for line in aegis.err.splitlines()]
    assert lines[0] == ["aegis:", "tool tools/nope is unknown"]
    assert ["reason", "UNKNOWN_TOOL"] in lines
    assert ["try", "aegis tools list"] in lines
    assert str(profile_file) in aegis.err


def test_an_error_is_json_where_the_answer_would_be(aegis: Aegis) -> None:
    assert aegis("tools", "run", "nope", "-o", "json") == 1

    error = json.loads(aegis.err)["error"]
    assert (error["code"], error["reason"]) == ("NOT_FOUND", "UNKNOWN_TOOL")
    assert error["metadata"] == {"tool": "tools/nope"}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["tools", "run", "echo", "--arg", "novalue"], "--arg 'novalue' is not NAME=VALUE"),
        (["tools", "run", "echo", "--file", "a=/no/such"], "file /no/such cannot be read"),
        (["tools", "run", "echo", "--json", "/no/such"], "--json /no/such cannot be read"),
        (["tools", "run", "echo", "--json", '{"a": }'], '--json {"a": } is not JSON'),
        (["carbon", "check", "GB", "--on-missing", "maybe"], "'maybe' is not one of run_now, wait"),
        (["--profile", "none", "tools", "list"], "no profile 'none'"),
        (["nope"], "there is no command 'nope'"),
        (["tools", "run"], "Missing argument"),
    ],
)
def test_wrong_usage_ends_with_2(aegis: Aegis, arguments: list[str], fault: str) -> None:
    assert aegis(*arguments) == 2
    assert fault in aegis.err


def test_without_a_profile_file_the_message_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert run(["tools", "list"]) == 2
    assert "aegis up" in capsys.readouterr().err


def test_a_fault_of_our_own_shows_no_traceback(aegis: Aegis, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError("x")

    monkeypatch.setattr("platform.python_version", broken)

    assert aegis("version") == 1
    assert aegis.err.startswith("aegis: unexpected ZeroDivisionError: x, at ")
    assert "Traceback" not in aegis.err


def test_a_command_of_a_missing_package_names_it(aegis: Aegis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_external", lambda _name: None)

    assert aegis("up", "--port-base", "9000") == 2
    assert "pip install aegis-local" in aegis.err


def test_a_group_takes_a_command_of_another_package_and_names_a_missing_one(
    aegis: Aegis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(lazy, "_external", asked.append)

    assert aegis("fl", "simulate", "digits", "--nodes", "3") == 2
    assert "`aegis fl simulate` comes with another package" in aegis.err
    assert "pip install aegis-fl-coordinator" in aegis.err
    assert asked == ["fl simulate"]

    assert aegis("fl", "--help") == 0
    assert "simulate  Train over virtual nodes on this machine." in aegis.out
    assert "watch     Follow a run to its end" in aegis.out


@pytest.mark.parametrize(("error", "expected"), [(PermissionDenied("no"), 3), (Unauthenticated("who?"), 3)])
def test_a_failure_of_another_package_has_its_exit_code(
    aegis: Aegis, monkeypatch: pytest.MonkeyPatch, error: AegisError, expected: int
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(lazy, "_external", lambda name: click.Command(name, callback=fail))

    assert aegis("worker") == expected
    assert aegis.err.startswith(f"aegis: {error.message}\n")
    assert "  try  " in aegis.err


def test_a_command_of_another_package_is_run(aegis: Aegis, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = typer.Typer()

    @extra.command()
    def extra_command(ctx: typer.Context, name: str = "you") -> None:
        typer.echo(f"hello {name}")
        raise typer.Exit(7)

    found: dict[str, object] = {"up": extra, "bare": click.Command("x", callback=lambda: click.echo("bare"))}
    monkeypatch.setattr(
        lazy, "_external", lambda name: lazy.as_command(found[name], name) if name in found else None
    )

    assert aegis("up", "--name", "me") == 7
    assert aegis.out == "hello me\n"
    assert aegis("bare") == 0
    assert aegis.out == "bare\n"
    assert aegis("up", "--help") == 0
    assert "completion" not in aegis.out


def test_completion_knows_the_commands_without_importing_them() -> None:
    context = click.Context(typer.main.get_command(typer.Typer(cls=AegisGroup, callback=lambda: None)))
    group = context.command
    assert isinstance(group, AegisGroup)

    assert [item.value for item in group.shell_complete(context, "to")] == ["token", "tools"]


def test_version_names_the_packages(aegis: Aegis) -> None:
    assert aegis("version", "-o", "json") == 0
    assert {"python", "aegis-client", "grpcio"} <= json.loads(aegis.out).keys()
