"""A clock that the test owns, a UK API on loopback that answers as it is told, and a real Redis."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from services.carbon.tests.carbon_callers import Callers

from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_carbon.main import running
from aegis_carbon.settings import Settings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import UkApi
from aegis_common.rpc.server import Running
from aegis_common.testing.pki import Mesh
from aegis_common.testing.redis import RedisServer


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches a test, and no proxy stands before loopback."""
    for name in list(os.environ):
        if name.upper().startswith(("AEGIS_", "CARBON_")) or name.upper() in ("REDIS_URL", "LOG_LEVEL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def uk_api() -> Iterator[UkApi]:
    with UkApi.serving() as api:
        yield api


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps what it acknowledges."""
    server = RedisServer(tmp_path / "durable", append_only=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
async def server(mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Running]:
    settings = Settings(
        api_url=uk_api.url,
        zone_thresholds={"GB-wales": 90},
        drain=timedelta(0),
        **{**mesh.service_kwargs("carbon"), "audit_dir": tmp_path},
    )
    async with running(settings, clock=clock) as server:
        yield server


@pytest.fixture
async def callers(server: Running, mesh: Mesh) -> AsyncIterator[Callers]:
    async with AsyncExitStack() as stack:
        yield Callers(mesh, server.port, stack)


@pytest.fixture
async def carbon(callers: Callers) -> pb_grpc.CarbonServiceAsyncStub:
    return await callers.stub("agent")
