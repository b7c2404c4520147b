"""Finds out what this machine refuses a tool's child: tries it in a process that confines itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from typing import Final

from aegis_agent.adapters.children.sandbox import Confinement, confine

_TIMEOUT_S: Final = 60.0


def probe() -> Confinement:
    """Return what holds for children on this machine.

    Raises:
        OSError: No process can be started here.
    """
    command = [sys.executable, "-P", "-m", "aegis_agent.adapters.children.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        return Confinement(**json.loads(done.stdout))
    except (subprocess.SubprocessError, ValueError, TypeError) as error:
        raise OSError(f"the trial process failed: {error}") from error


def _tried() -> Confinement:
    claimed = confine(may_fork=False, network=False)
    return Confinement(
        processes=claimed.processes and not _forks(), network=claimed.network and not _connects()
    )


def _forks() -> bool:
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        return False
    return True


def _connects() -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect(("192.0.2.1", 9))  # sends nothing; without a network there is no way there
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_tried())))
