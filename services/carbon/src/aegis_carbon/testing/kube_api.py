"""A stand-in for the API server of Kubernetes: a cluster in memory over HTTP on loopback."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from aegis_carbon.testing.kube_cluster import KubeCluster, Object, Request, status


class KubeApi(KubeCluster):
    """A cluster that answers at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url: Final = url

    @classmethod
    @contextmanager
    def serving(cls, tls: tuple[Path, Path] | None = None) -> Iterator[KubeApi]:
        """Serve on a free port until the block ends.

        Args:
            tls: Certificate chain and key, PEM; None serves without TLS.
        """
        server = _Server(("127.0.0.1", 0), _Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            # Each connection shakes hands in its own thread: one that never does must hold up no other.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if tls is None else "https"
        server.api = api = cls(f"{scheme}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
        thread.start()
        try:
            yield api
        finally:
            api.stopped.set()
            with api.changed:
                api.changed.notify_all()
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is none."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the names that http.server calls
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        api, parts = self.server.api, urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        request = Request(self.command, parts.path, query, body, token)
        api.requests.append(request)
        refused = api.refuse(request)
        with suppress(OSError):  # the caller may have hung up
            if refused is not None:
                self._send(*status(refused, "InternalError", "told to"))
            elif query.get("watch") == "true":
                self._stream(request)
            else:
                self._send(*api.answer(request))

    def _send(self, code: int, body: Object) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, request: Request) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in self.server.api.watch(request):
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        """Say nothing: the test looks at `requests`."""
