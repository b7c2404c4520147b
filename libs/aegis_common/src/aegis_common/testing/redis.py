"""A real Redis for tests: private folder, unix socket, no TCP port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aegis_common.redis_binary import find_redis_server

_MAX_SOCKET_PATH: Final = 100
_START_LIMIT_S: Final = 20.0
_STOP_LIMIT_S: Final = 10.0


class RedisServer:
    """One redis-server that can be stopped, killed and started again over the same data.

    Attributes:
        url: `unix:///...`, for `redis.asyncio.from_url`.
        socket: The same as a path.
    """

    def __init__(self, directory: Path, *, append_only: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory.resolve()
        self._append_only = append_only
        self._short: Path | None = None
        self.socket = self._directory / "redis.sock"
        if len(str(self.socket)) > _MAX_SOCKET_PATH:  # the kernel allows 107
            self._short = Path(tempfile.mkdtemp(prefix="aegis-redis-"))
            self.socket = self._short / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server and wait until it answers PING.

        Raises:
            RuntimeError: It ended, or gave no answer in time; the message has the end of its log.
        """
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        log = self._directory / "redis.log"
        command = [str(find_redis_server()), "--port", "0", "--unixsocket", str(self.socket)]
        command += ["--unixsocketperm", "700", "--dir", str(self._directory), "--save", ""]
        command += ["--appendonly", "yes" if self._append_only else "no", "--appendfsync", "always"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self._directory)
        give_up = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"redis-server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the server in good order, and remove what lies outside the given folder."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        if self._short:
            shutil.rmtree(self._short, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False


@contextmanager
def redis_server(directory: Path, *, append_only: bool = False) -> Iterator[str]:
    """Run a Redis whose files lie in *directory*; yields its `unix://` URL."""
    server = RedisServer(directory, append_only=append_only)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
