"""A real gateway for tests: render, check, run, wait until it answers, stop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from aegis_gateway.envoy import envoy_command
from aegis_gateway.render import render
from aegis_gateway.settings import GatewaySettings
from aegis_gateway.validate import validate

_START_S: Final = 30
_STOP_S: Final = 10


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that listens.

    Attributes:
        settings: What it was rendered from.
        folder: Where the rendered files lie.
        access_log: Envoy's standard output.
        pid: Envoy's process.
    """

    settings: GatewaySettings
    folder: Path
    access_log: Path
    pid: int

    def ops(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.settings.ops_listen}{path}", trust_env=False)

    def stat(self, name: str) -> float:
        """Return one metric, added up over its labels; 0 when it is not there."""
        lines = self.ops("/stats/prometheus").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " "))
        )


@contextmanager
def running_gateway(settings: GatewaySettings, folder: Path) -> Iterator[RunningGateway]:
    """Run Envoy on *settings* until the block ends.

    Raises:
        GatewayConfigInvalid: The configuration is wrong.
        TimeoutError: Envoy does not listen.
    """
    bootstrap = render(settings, folder)
    validate(folder)
    log = folder / "access.log"
    with log.open("wb") as out, (folder / "envoy.log").open("wb") as err:
        process = subprocess.Popen(envoy_command(bootstrap, concurrency=1), stdout=out, stderr=err)
    try:
        running = RunningGateway(settings, folder, log, process.pid)
        _wait(process, running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], running: RunningGateway) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if (
                running.ops("/ready").status_code == httpx.codes.OK
                and running.stat("envoy_listener_manager_total_listeners_active") >= 3
            ):
                return
        except httpx.TransportError:
            time.sleep(0.05)
    said = (running.folder / "envoy.log").read_text(errors="backslashreplace")
    raise TimeoutError(f"the gateway does not listen: {said[-2000:]}")
