"""`aegis mcp config`: what each host needs to know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aegis_client.cli.app import run
from aegis_client.profiles import Profile, write_profiles


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.toml"
    write_profiles(path, {"one": Profile(address="gateway.example.org:443"), "two": Profile(address="x:1")})
    return path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, dict[str, object]]]:
    assert 0 == run(list(words))
    found: dict[str, dict[str, dict[str, object]]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("host", "key", "more"),
    [
        ("claude-desktop", "mcpServers", {}),
        ("cursor", "mcpServers", {}),
        ("vscode", "servers", {"type": "stdio"}),
    ],
)
def test_a_host_starts_this_program_with_this_profile(
    file: Path, capsys: pytest.CaptureFixture[str], host: str, key: str, more: dict[str, str]
) -> None:
    options = ["--profile-file", str(file), "--profile", "one"]
    found = printed(capsys, *options, "mcp", "config", host, "--name", "mine")

    server = found[key]["mine"]
    assert Path(str(server.pop("command"))).name
    assert {"args": [*options, "mcp", "stdio"], **more} == server


def test_a_host_that_signs_in_by_itself_gets_the_url(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(
        capsys, "--profile-file", str(file), "--profile", "one", "mcp", "config", "vscode", "--http"
    )

    assert {"servers": {"aegis": {"type": "http", "url": "https://gateway.example.org:443/mcp"}}} == found


def test_a_host_is_not_sent_to_a_port_that_asks_for_a_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "profiles.toml"
    machine = Profile(address="x:1", ca=tmp_path / "ca", cert=tmp_path / "cert", key=tmp_path / "key")
    write_profiles(file, {"machine": machine})
    words = ["--profile-file", str(file), "mcp", "config", "vscode"]

    assert 2 == run([*words, "--http"])
    assert "choose a profile with a token" in capsys.readouterr().err
    assert 0 == run(words)


def test_the_file_of_claude_desktop_takes_no_url(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == run(
        ["--profile-file", str(file), "--profile", "two", "mcp", "config", "claude-desktop", "--http"]
    )
    assert "add https://x:1/mcp in its Settings, Connectors" in capsys.readouterr().err


def test_an_unknown_host_is_a_usage_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == run(["--profile-file", str(file), "mcp", "config", "emacs"])
    assert "claude-desktop" in capsys.readouterr().err
