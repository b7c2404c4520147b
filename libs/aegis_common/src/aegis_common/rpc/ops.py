"""The ops port: metrics and readiness over plain HTTP, for loopback and the pod only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from aegis_common.errors import ConfigurationError

_POLL_S: Final = 0.05  # how soon `shutdown` is noticed
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_log: Final = logging.getLogger(__name__)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: one that says nothing must not hold up the probes."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # of the base class
        _log.debug("ops connection from %s failed", client_address, exc_info=True)


class _Quiet(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """Scrapes are not worth a log line."""


@contextmanager
def ops_server(listen: str, *, metrics: Callable[[], bytes], ready: Callable[[], bool]) -> Iterator[int]:
    """Serve `/metrics`, `/ready` and `/live` on *listen* (`host:port`) and yield the port.

    Raises:
        ConfigurationError: The address cannot be bound.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            status, body = "200 OK", metrics()
        elif path == "/live":
            status, body = "200 OK", b"live\n"
        elif path == "/ready":
            status, body = ("200 OK", b"ready\n") if ready() else ("503 Service Unavailable", b"not ready\n")
        else:
            status, body = "404 Not Found", b"try /metrics, /ready or /live\n"
        start_response(status, [("Content-Type", _TEXT), ("Content-Length", str(len(body)))])
        return [body]

    host, _, port = listen.rpartition(":")
    try:
        server: WSGIServer = make_server(host, int(port), answer, server_class=_Server, handler_class=_Quiet)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"ops_listen {listen!r}: {error}", listen=listen) from error
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="ops", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
