"""The process: it starts, answers, and ends when it is told to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_common.testing.pki import Mesh

PROGRAM = Path(sys.executable).with_name("aegis-carbon")


@contextmanager
def process(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [PROGRAM],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def port_of(child: subprocess.Popen[str]) -> int:
    """Read the log up to the line that names the port."""
    assert child.stdout is not None
    for line in child.stdout:
        found = re.search(r'"port": ?(\d+)', line)
        if found:
            return int(found.group(1))
    raise AssertionError("the process ended before it served")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


async def test_it_serves_the_demo_zones_without_any_setting_of_its_own_and_ends_on_sigterm(
    mesh: Mesh,
) -> None:
    with process(mesh.service_env("AEGIS_CARBON_", "carbon")) as child:
        port = port_of(child)
        async with mesh.channel(port, "carbon", account="agent") as channel:
            stub: pb_grpc.CarbonServiceAsyncStub = pb_grpc.CarbonServiceStub(channel)
            response = await stub.CheckSchedule(pb.CheckScheduleRequest())
            question = health_pb2.HealthCheckRequest(service="aegis.carbon.v1.CarbonService")
            health: Any = health_pb2_grpc.HealthStub(channel)  # its types know sync calls only
            state = await health.Check(question)
        child.send_signal(signal.SIGTERM)

        assert 0 == child.wait(30)
    assert ("zones/demo-day", pb.QUALITY_SYNTHETIC) == (response.intensity.zone, response.intensity.quality)
    assert health_pb2.HealthCheckResponse.SERVING == state.status


@pytest.mark.parametrize(
    ("name", "value"),
    [("AEGIS_CARBON_DEFAULT_ZONE", "mars"), ("CARBON_CACHE_TTL", "soon"), ("AEGIS_CARBON_NONSENSE", "1")],
)
def test_a_setting_that_does_not_fit_ends_it_with_2_and_one_message(
    mesh: Mesh, name: str, value: str
) -> None:
    with process({**mesh.service_env("AEGIS_CARBON_", "carbon"), name: value}) as child:
        output, _ = child.communicate(timeout=60)

        assert 2 == child.returncode
    assert "error: " in output
    assert (value if name.endswith("ZONE") else name) in output
    assert "Traceback" not in output
