"""A throw-away mesh with real servers: carbon and agent of a few lines, Flower's own processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from aegis.agent.v1 import model_service_pb2_grpc as model_grpc
from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.carbon.v1 import ledger_service_pb2_grpc as ledger_grpc
from aegis_common.pki import new_ed25519
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_fl_coordinator.adapters.flower_control import FlowerControl
from aegis_fl_coordinator.domain.ports import Engine
from aegis_fl_coordinator.flower import superlink_command, superlink_environment
from aegis_fl_coordinator.main import running
from aegis_fl_coordinator.settings import Settings
from aegis_fl_coordinator.testing.peers import Agent, Carbon
from aegis_fl_coordinator.testing.processes import (
    Coordinate,
    Coordinator,
    Processes,
    StartSuperLink,
    SuperLink,
    until,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches a test, and no proxy stands before loopback."""
    for name in list(os.environ):
        if name.upper().startswith(("AEGIS_", "FLOWER_", "FLWR_")) or name.upper() == "LOG_LEVEL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path / "mesh")


@pytest.fixture
async def carbon(mesh: Mesh) -> AsyncIterator[Carbon]:
    servicer = Carbon()  # type: ignore[abstract]  # nothing else is called
    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(0))
    add: list[tuple[Callable[[Any, grpc.aio.Server], None], Any]] = [
        (carbon_grpc.add_CarbonServiceServicer_to_server, servicer),
        (ledger_grpc.add_LedgerServiceServicer_to_server, servicer.ledger),
    ]
    async with serving(settings, name="carbon", add=add) as server:
        servicer.port = server.port
        yield servicer


@pytest.fixture
async def agent(mesh: Mesh) -> AsyncIterator[Agent]:
    servicer = Agent()  # type: ignore[abstract]  # nothing else is called
    settings = ServiceSettings(**mesh.service_kwargs("agent"), drain=timedelta(0))
    add = [(model_grpc.add_ModelServiceServicer_to_server, servicer)]
    async with serving(settings, name="agent", add=add) as server:
        servicer.port = server.port
        yield servicer


@pytest.fixture
def coordinate(mesh: Mesh, carbon: Carbon, agent: Agent, tmp_path: Path) -> Coordinate:
    """Return what starts a coordinator, as often as the test wants, on one volume."""
    new_ed25519(tmp_path / "signing.key")

    @asynccontextmanager
    async def start(engine: Engine | None = None, **changed: object) -> AsyncIterator[Coordinator]:
        values: dict[str, Any] = {
            **mesh.service_kwargs("fl-coordinator"),
            "data_dir": tmp_path / "volume",
            "superlink": "127.0.0.1:1",
            "superlink_ca": mesh.ca.bundle,
            "serverapp_tls": mesh.tls("fl-serverapp"),
            "carbon": f"127.0.0.1:{carbon.port}",
            "agent": f"127.0.0.1:{agent.port}",
            "model_store": (tmp_path / "models").as_uri(),
            "signing_key": tmp_path / "signing.key",
            "drain": 0,
            "look": 0.05,
            "zone": "zones/GB",
            "usage_interval": 0.05,
        }
        settings = Settings(**(values | changed))
        async with AsyncExitStack() as stack, running(settings, engine=engine) as server:
            yield Coordinator(mesh, settings, server.port, stack)

    return start


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def superlink(mesh: Mesh, processes: Processes, tmp_path: Path) -> Iterator[StartSuperLink]:
    """Yield what starts a real SuperLink on the test's volume."""
    mesh.ca.issue("fl-superlink", dns=["localhost"], ips=["127.0.0.1"])
    port = free_port()
    controls: list[FlowerControl] = []

    async def start() -> SuperLink:
        cert, key = mesh.ca.leaf("fl-superlink")
        (tmp_path / "volume").mkdir(exist_ok=True, mode=0o700)
        database = tmp_path / "volume" / "superlink.db"
        command = superlink_command(port=port, database=database, cert=cert, key=key, ca=mesh.ca.bundle)
        runs = tmp_path / "volume" / "runs"
        environment = superlink_environment(home=tmp_path / "flower", serverapp_dir=runs)
        processes.start("superlink", command, environment)
        control = FlowerControl(f"127.0.0.1:{port}", ca=mesh.ca.bundle)
        controls.append(control)
        await until(control.healthy)
        return SuperLink(port, control)

    yield start
    for control in controls:
        control.close()
