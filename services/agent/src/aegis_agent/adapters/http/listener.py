"""The HTTP listener: uvicorn's HTTP/1.1 over mutual TLS that follows its files, with limits and a drain."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from aegis_agent.adapters.http.app import HttpApp
from aegis_agent.adapters.http.exchange import ABORT, DRAIN, PEER
from aegis_agent.adapters.http.room import BodiesFull, ResponsesFull, Room
from aegis_agent.adapters.http.routes import Route
from aegis_common.errors import ConfigurationError
from aegis_common.pki import spiffe_id_of
from aegis_common.rpc.chain import Chain
from aegis_common.rpc.health import Health
from aegis_common.rpc.limits import METADATA_BYTES
from aegis_common.tls import CertificateWatcher, IdentityFiles, Material, server_context

MAX_CONNECTIONS: Final = 1024
MAX_BODIES_BYTES: Final = 256 << 20
MAX_RESPONSES_BYTES: Final = 256 << 20
_BACKLOG: Final = 512
_HANDSHAKE_S: Final = 5.0
_HEAD_S: Final = 10.0
_IDLE_S: Final = 75
_CLEAN_UP_S: Final = 3.0
_log: Final = logging.getLogger(__name__)


class HttpDoor:
    """The agent's HTTP listener; a `Door` of `serving`.

    Args:
        listen: `host:port`; port 0 picks a free one.
        routes: What it serves, besides `/healthz`.
        max_connection_age: Connections are closed after this time, with the next response or when idle.
        challenge: Parameters of `www-authenticate` on 401, after `Bearer`.
        on_leave: Called when the drain begins: ends what would otherwise go on until it is over.
        max_bodies_bytes: Most bytes of the bodies of all requests at once; tenants share it fairly.
        max_responses_bytes: Most bytes of all responses that have not been read yet; shared likewise.
    """

    def __init__(
        self,
        listen: str,
        routes: Sequence[Route],
        *,
        max_connection_age: timedelta,
        challenge: str = "",
        on_leave: Callable[[], None] | None = None,
        max_bodies_bytes: int = MAX_BODIES_BYTES,
        max_responses_bytes: int = MAX_RESPONSES_BYTES,
    ) -> None:
        self._listen, self._routes, self._challenge = listen, routes, challenge
        self._max_age_s, self._on_leave = max_connection_age.total_seconds(), on_leave
        self._bodies = Room(max_bodies_bytes, "the bodies of requests", BodiesFull)
        self._responses = Room(max_responses_bytes, "responses that are not read yet", ResponsesFull)
        self._state = ServerState()
        self._stack = AsyncExitStack()
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._config: uvicorn.Config
        self.port = 0

    async def open(self, chain: Chain, *, files: IdentityFiles, health: Health) -> None:
        """Begin to serve.

        Raises:
            ConfigurationError: The address cannot be bound, or a file cannot be used.
        """
        app = HttpApp(
            self._routes,
            chain,
            ready=health.tell,
            challenge=self._challenge,
            bodies=self._bodies,
            responses=self._responses,
        )
        self._config = _config(app)
        self._socket = _bound(self._listen)
        self.port = self._socket.getsockname()[1]
        await self._serve(await asyncio.to_thread(files.latest))
        # A new certificate: a new TLS context, whose sessions begin anew, on the same socket.
        await self._stack.enter_async_context(CertificateWatcher(files, self._serve))
        _log.info("serving http", extra={"port": self.port})

    async def close(self, within: timedelta) -> None:
        """Take no new connections and let the running requests end within the time; cancel the rest."""
        if self._socket is None:
            return
        await self._stack.aclose()
        if self._server is not None:
            self._server.close()
        self._socket.close()
        self._socket = None
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._on_leave is not None:
            self._on_leave()
        await self._finished(within.total_seconds())
        for task in list(self._state.tasks):
            task.cancel()
        await self._finished(_CLEAN_UP_S)
        for connection in list(self._state.connections):
            connection.transport.abort()

    async def _serve(self, material: Material) -> None:
        if self._socket is None:
            return
        before, own = self._server, self._socket.dup()
        tls = server_context(material, protocols=["http/1.1"])
        self._server = await asyncio.get_running_loop().create_server(
            self._connection, sock=own, ssl=tls, backlog=_BACKLOG, ssl_handshake_timeout=_HANDSHAKE_S
        )
        if before is not None:
            before.close()

    def _connection(self) -> _Connection:
        return _Connection(self._config, self._state, {}, max_age_s=self._max_age_s)

    async def _finished(self, within_s: float) -> None:
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=within_s)


class _Connection(HttpToolsProtocol):
    """One connection: who is at its other end, how old it may grow, how large a head may be."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any], *, max_age_s: float
    ) -> None:
        super().__init__(config, state, app_state)
        self.access_log = False  # the chain logs each call
        self._max_age_s = max_age_s
        self._old = False
        self._in_head, self._head_bytes = True, 0
        self._slow_head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = _peer(transport)
        self._ageing = self.loop.call_later(self._max_age_s, self._age)
        # The idle timer, which otherwise begins with the first response.
        self.timeout_keep_alive_task = self.loop.call_later(_IDLE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ageing.cancel()
        self._end_of_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._in_head and self._slow_head is None:
            self._slow_head = self.loop.call_later(_HEAD_S, self.transport.abort)
        super().data_received(data)
        if self._in_head and self._head_bytes > METADATA_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[PEER] = self._peer  # type: ignore[typeddict-unknown-key]
        self.scope[ABORT] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        self.scope[DRAIN] = self.flow.drain  # type: ignore[typeddict-unknown-key]

    def _end_of_head(self) -> None:
        self._in_head = False
        if self._slow_head is not None:
            self._slow_head.cancel()
            self._slow_head = None

    def on_headers_complete(self) -> None:
        self._end_of_head()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > METADATA_BYTES:
            raise ValueError("the head of the request is too large")  # the parser makes it a 400
        super().on_headers_complete()
        if self._old:
            self._last_response()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def _age(self) -> None:
        self._old = True
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._last_response()

    def _last_response(self) -> None:
        """End the connection with the response that is due, so that no request meets a closing one."""
        if self.cycle.response_started:
            self.cycle.keep_alive = False
        else:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]


def _peer(transport: asyncio.Transport) -> str:
    """Return the SPIFFE id of the client certificate, or an empty string."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return spiffe_id_of(ssl.DER_cert_to_PEM_cert(der).encode()) if der else ""


def _config(app: HttpApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
    )
    config.load()
    return config


def _bound(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol said, or asyncio leaves Nagle's algorithm on: 40 ms for each response.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        bound.close()
        raise ConfigurationError(
            f"http_listen {listen!r} cannot be bound: {error}", http_listen=listen
        ) from error
    bound.setblocking(False)
    return bound
