"""The command line as a user meets it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from aegis_gateway.config import GatewaySettings, render

PROGRAM = str(Path(sys.executable).with_name("aegis-gateway"))


def gateway(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def settings_file(settings: GatewaySettings, tmp_path: Path) -> Path:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_defaults=True))))
    return file


def test_render_then_validate(settings_file: Path, tmp_path: Path) -> None:
    rendered = gateway("render", "--settings", str(settings_file), "--out", str(tmp_path / "out"))
    checked = gateway("validate", "--out", str(tmp_path / "out"))

    assert (rendered.returncode, rendered.stdout.strip()) == (0, str(tmp_path / "out" / "envoy.yaml"))
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_rejected_configuration_is_one_clear_message_and_status_2(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    render(settings, tmp_path)
    file = tmp_path / "lds.yaml"
    file.write_text(file.read_text().replace("codec_type", "codec_typo"))
    checked = gateway("validate", "--out", str(tmp_path))

    assert checked.returncode == 2
    assert checked.stderr.startswith("error: Envoy refuses the configuration")
    assert "codec_typo" in checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    done = gateway("render", "--out", str(tmp_path))

    assert done.returncode == 2
    assert "identities: Field required" in done.stderr


def test_openapi_prints_the_document() -> None:
    assert json.loads(gateway("openapi").stdout)["info"]["title"] == "AEGIS"


def test_a_taken_port_is_named(settings_file: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = gateway(
            "run",
            "--settings",
            str(settings_file),
            "--out",
            str(tmp_path / "out"),
            "--set",
            f"people_listen={address}",
        )

    assert done.returncode == 2
    assert f"people_listen: cannot listen on {address}" in done.stderr


def test_run_becomes_envoy_and_ends_on_sigterm(
    settings: GatewaySettings, settings_file: Path, tmp_path: Path
) -> None:
    command = [
        PROGRAM,
        "run",
        "--settings",
        str(settings_file),
        "--out",
        str(tmp_path / "out"),
        "--concurrency",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        status = _await_ready(settings.ops_listen)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    assert (status, process.returncode) == (200, 0)


def _await_ready(address: str) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if (status := httpx.get(f"http://{address}/ready", trust_env=False).status_code) == 200:
                return status
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return 0
