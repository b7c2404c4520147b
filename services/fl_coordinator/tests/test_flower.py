"""How Flower's processes are started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from aegis_fl_coordinator.flower import (
    TASK_PROGRAMS,
    node_key,
    superlink_command,
    superlink_environment,
    supernode_command,
    supernode_environment,
)


def test_superlink_stays_on_loopback_with_tls_and_node_authentication(tmp_path: Path) -> None:
    command = superlink_command(
        port=9, database=tmp_path / "db", cert=tmp_path / "c", key=tmp_path / "k", ca=tmp_path / "ca"
    )

    assert Path(command[0]).exists()
    assert command[1:5] == ["--host", "127.0.0.1", "--port", "9"]
    assert "--enable-supernode-auth" in command
    assert "--disable-runtime-dependency-installation" in command
    assert "--insecure" not in command


def test_a_supernode_checks_the_certificate_of_its_envoy(tmp_path: Path) -> None:
    command = supernode_command(
        superlink_port=1,
        runtime_port=2,
        ca=tmp_path / "ca",
        private_key=tmp_path / "k",
        partition=1,
        partitions=3,
    )

    assert Path(command[0]).exists()
    assert command[command.index("--root-certificates") + 1] == str(tmp_path / "ca")
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--insecure" not in command


def test_flower_tells_nobody_and_installs_nothing(tmp_path: Path) -> None:
    for environment in (
        superlink_environment(home=tmp_path, serverapp_dir=tmp_path / "runs"),
        supernode_environment(home=tmp_path),
    ):
        assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert str(Path(sys.executable).parent) in environment["PATH"].split(":")[:2]


def test_no_other_program_of_flower_runs_an_app(tmp_path: Path) -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    server = superlink_environment(home=tmp_path / "link", serverapp_dir=tmp_path / "runs")
    site = supernode_environment(home=tmp_path / "site")
    ran = {}
    for name, environment in (("flwr-serverapp", server), ("flwr-clientapp", site)):
        for program in TASK_PROGRAMS:
            if program != name:
                command = ["/bin/sh", "-c", f"{program} --help"]
                ran[name, program] = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=False
                )

    assert set(TASK_PROGRAMS) == set(TASK_TYPE_TO_COMMAND.values())
    assert {done.returncode for done in ran.values()} == {1}
    assert all(f"aegis: {program} is not run here" in done.stderr for (_, program), done in ran.items())


def test_a_serverapp_starts_as_the_program_that_confines_itself(tmp_path: Path) -> None:
    environment = superlink_environment(
        home=tmp_path / "home", serverapp_dir=tmp_path / "runs", readable=[tmp_path / "data"]
    )

    assert environment["PATH"].split(":")[0] == str(tmp_path / "home" / "bin")
    assert "aegis_fl_coordinator.serverapp.confined" in (tmp_path / "home/bin/flwr-serverapp").read_text()
    assert environment["AEGIS_FL_SERVERAPP_READ"] == str(tmp_path / "data")


def test_a_node_key_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"

    public = node_key(path)

    assert path.stat().st_mode & 0o077 == 0
    assert node_key(path) == public
    assert serialization.load_pem_public_key(public.encode()).key_size == 384  # type: ignore[union-attr]


def test_importing_the_package_loads_neither_flower_nor_torch() -> None:
    code = (
        "import sys, aegis_fl_coordinator, aegis_fl_coordinator.flower, aegis_fl_coordinator.wrapper;"
        "print([name for name in ('flwr', 'torch', 'sklearn', 'onnx') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
