"""A clock that the test owns, a UK API on loopback that answers as it is told, and a real Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import UkApi
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
