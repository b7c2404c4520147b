"""What listens, where, and to whom it answers: every TCP listener of every process of the stack."""

from __future__ import annotations

import os
import re
import socket
import ssl
from pathlib import Path

import psutil
import pytest

from stack_support import Stack

# Listeners that answer without a client certificate, and why that is right.
OPEN = {
    "people": "the gateway's listener for people: a token instead",
    "gateway_ops": "metrics and readiness, loopback",
    "agent_ops": "metrics and readiness, loopback",
    "carbon_ops": "metrics and readiness, loopback",
    "fl_coordinator_ops": "metrics and readiness, loopback",
    "superlink": "Flower's own port, loopback; sites reach it through two Envoys only",
}


def _listeners(stack: Stack) -> dict[int, tuple[str, str]]:
    """Return port -> (address, process name) of everything that carries the stack's mark."""
    found: dict[int, tuple[str, str]] = {}
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or str(stack.state) not in " ".join(process.environ().values()):
                continue
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.port] = (connection.laddr.ip, process.name())
        except psutil.Error:
            continue
    return found


def _answers(port: int, context: ssl.SSLContext | None) -> bool:
    """Say whether a caller without a certificate gets an HTTP answer, of whatever status."""
    request = b"GET /v1/tools HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            if context is None:
                return _http(raw, request)
            with context.wrap_socket(raw, server_hostname="localhost") as stream:
                return _http(stream, request)
    except (ssl.SSLError, OSError):
        return False


def _http(stream: socket.socket, request: bytes) -> bool:
    stream.sendall(request)
    return stream.recv(16).startswith(b"HTTP/")


def test_everything_listens_on_loopback_and_only_where_it_is_known(stack: Stack) -> None:
    listeners = _listeners(stack)

    assert listeners
    assert {"127.0.0.1"} == {address.removeprefix("::ffff:") for address, _ in listeners.values()}
    assert set() == set(listeners) - set(stack.ports.values()), listeners


def test_redis_listens_on_no_port(stack: Stack) -> None:
    assert not any("redis" in name for _, name in _listeners(stack).values())


def test_no_listener_answers_without_a_certificate_but_the_known_ones(stack: Stack) -> None:
    context = ssl.create_default_context(cafile=str(stack.bundle))
    context.check_hostname = False
    names = {port: name for name, port in stack.ports.items()}
    answering = {names[port] for port in _listeners(stack) if _answers(port, context) or _answers(port, None)}

    assert {re.sub(r"^agent_\d", "agent", name) for name in answering} <= set(OPEN)
    assert "people" in answering


@pytest.mark.parametrize("name", ["redis-jobs", "redis-cache"])
def test_the_sockets_of_redis_are_private(stack: Stack, name: str) -> None:
    folder = Path(str(stack.process(name)["url"]).removeprefix("unix://")).parent

    assert 0o700 == folder.stat().st_mode & 0o777
