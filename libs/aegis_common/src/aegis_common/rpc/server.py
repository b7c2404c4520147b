"""Build, run and drain a gRPC server the same way in every service."""

from __future__ import annotations

import asyncio
import logging
import platform
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from aegis_common.audit.log import AuditLog
from aegis_common.auth.identify import Identifier
from aegis_common.errors import ConfigurationError
from aegis_common.logs import setup_logging
from aegis_common.memory import keep_few_arenas
from aegis_common.rpc.access import method_table
from aegis_common.rpc.chain import Chain, ChainInterceptor
from aegis_common.rpc.gauges import observe_audit, observe_certificates, observe_identifier
from aegis_common.rpc.health import Health
from aegis_common.rpc.layers import (
    AuditLayer,
    AuthorizationLayer,
    DeadlineLayer,
    ErrorLayer,
    IdentityLayer,
    TelemetryLayer,
)
from aegis_common.rpc.limits import METADATA_OPTIONS
from aegis_common.rpc.ops import ops_server
from aegis_common.rpc.reflection import add_reflection
from aegis_common.rpc.validation import request_validator
from aegis_common.settings import ServiceSettings
from aegis_common.signing import Signer
from aegis_common.telemetry import Telemetry, setup_telemetry
from aegis_common.tls import CertificateWatcher, IdentityFiles, server_credentials

_log: Final = logging.getLogger(__name__)

Registration = tuple[Callable[[Any, grpc.aio.Server], None], Any]
"""A generated `add_XServicer_to_server` and the servicer."""


class Door(Protocol):
    """A further listener of a service, for another protocol, behind the same chain."""

    async def open(self, chain: Chain, *, files: IdentityFiles, health: Health) -> None:
        """Begin to serve.

        Raises:
            ConfigurationError: The address cannot be bound, or a file cannot be used.
        """
        ...

    async def close(self, within: timedelta) -> None:
        """Take no new calls, let those that run go on for *within*, cancel the rest; may be called twice."""
        ...


CONNECTION_AGE_GRACE_MS: Final = 600_000
_FLOW_CONTROL_BYTES: Final = 1 << 20
_CLEAN_UP_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers.

    Attributes:
        port: Port of the gRPC listener.
        ops_port: Port of the metrics and readiness listener.
        telemetry: Where the service adds metrics of its own.
        health: What the health service reports.
    """

    port: int
    ops_port: int
    telemetry: Telemetry
    health: Health

    async def set_ready(self, ready: bool) -> None:
        """Report every service of this server as SERVING or NOT_SERVING."""
        await self.health.set_ready(ready)


@asynccontextmanager
async def serving(
    settings: ServiceSettings,
    *,
    name: str,
    add: Sequence[Registration],
    telemetry: Telemetry | None = None,
    reflect_everything: bool = False,
    ready: bool = True,
    doors: Sequence[Door] = (),
) -> AsyncIterator[Running]:
    """Serve *add* over mutual TLS with the whole interceptor chain, and drain on the way out.

    Args:
        settings: The service's settings.
        name: Name of the service in logs, metrics and audit records.
        add: What to serve.
        telemetry: The service's telemetry, where it has made one; else it is set up here.
        reflect_everything: Answer reflection for every public service of AEGIS, not just for *add*: the
            gateway can send reflection to one service only.
        ready: Report SERVING at once; else the service calls `set_ready` when it is.
        doors: Further listeners of the service.

    Raises:
        ConfigurationError: A file or address of the settings cannot be used.
    """
    async with AsyncExitStack() as stack:
        if telemetry is None:
            setup_logging(name, settings.log_level)
            telemetry = setup_telemetry(name, settings.otlp_endpoint)
            stack.callback(telemetry.shutdown)
        files = IdentityFiles.of(settings.tls)
        credentials = server_credentials(files)
        await stack.enter_async_context(CertificateWatcher(files))
        observe_certificates(telemetry, files)
        audit = await stack.enter_async_context(_audit_log(settings, name))
        observe_audit(telemetry, audit)
        identifier = await stack.enter_async_context(Identifier.open(settings))
        observe_identifier(telemetry, identifier)
        chain = _chain(audit, identifier, telemetry)
        server = _build(settings, chain)
        services = _register(server, add)
        health = Health(server, services)
        add_reflection(server, services, everything=reflect_everything)
        port = _bind(server, settings.listen, credentials)
        ops_port = stack.enter_context(
            ops_server(settings.ops_listen, metrics=telemetry.metrics_text, ready=lambda: health.ready)
        )
        for door in doors:
            stack.push_async_callback(door.close, timedelta(0))
            await door.open(chain, files=files, health=health)
        await server.start()
        await health.set_ready(ready)
        _log.info("serving", extra={"port": port, "ops_port": ops_port, "services": services})
        try:
            yield Running(port, ops_port, telemetry, health)
        finally:
            await health.drain(settings.drain)
            leaving = [door.close(settings.drain) for door in doors]
            await asyncio.gather(server.stop(settings.drain.total_seconds()), *leaving)
            await _settled(chain)
            _log.info("stopped")


def _chain(audit: AuditLog, identifier: Identifier, telemetry: Telemetry) -> Chain:
    table = method_table()
    layers = (
        TelemetryLayer(telemetry, table),
        AuditLayer(audit),
        ErrorLayer(),
        DeadlineLayer(),
        IdentityLayer(identifier),
        AuthorizationLayer(),
    )
    return Chain(table, layers, identifier)


async def _settled(chain: Chain) -> None:
    """Let cancelled calls clean up and be audited: gRPC forgets them at once."""
    try:
        async with asyncio.timeout(_CLEAN_UP_S):
            await chain.idle()
    except TimeoutError:
        _log.warning("calls are still running although they were cancelled; they are left behind")


def _build(settings: ServiceSettings, chain: Chain) -> grpc.aio.Server:
    options = [
        # Two processes on one port would share its calls unseen.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age.total_seconds() * 1000)),
        ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_MS),
        ("grpc.http2.lookahead_bytes", _FLOW_CONTROL_BYTES),
        # It would widen that window by what it measures: a slow machine would hold many MiB of each upload.
        ("grpc.http2.bdp_probe", 0),
        *METADATA_OPTIONS,
    ]
    interceptor = ChainInterceptor(chain, request_validator())
    return grpc.aio.server(interceptors=[interceptor], options=options)


def _audit_log(settings: ServiceSettings, name: str) -> AuditLog:
    host = re.sub(r"[^a-z0-9-]", "-", platform.node().lower())[:63] or "host"
    return AuditLog(
        settings.audit_dir,
        service=name,
        instance=settings.instance or host,
        key=Signer.load(settings.audit_key),
        ship_dir=settings.audit_ship_dir,
    )


def _register(server: grpc.aio.Server, add: Sequence[Registration]) -> list[str]:
    names = []
    for register, servicer in add:
        register(servicer, server)
        names.append(_service_name(servicer))
    return names


def _service_name(servicer: Any) -> str:
    """Return the full proto name of the service that a servicer states or, generated, implements."""
    if isinstance(stated := getattr(servicer, "service_name", None), str):
        return stated
    for kind in type(servicer).__mro__:
        if kind.__name__.endswith("Servicer") and kind.__module__.endswith("_pb2_grpc"):
            descriptor: Any = sys.modules[kind.__module__.removesuffix("_grpc")]
            service = kind.__name__.removesuffix("Servicer")
            return str(descriptor.DESCRIPTOR.services_by_name[service].full_name)
    raise TypeError(f"{type(servicer).__name__} implements no generated service")


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigurationError(
            f"listen {listen!r} cannot be bound: is another process on that port?", listen=listen
        ) from error
    if port == 0:
        raise ConfigurationError(f"listen {listen!r} cannot be bound", listen=listen)
    return port


async def until_signalled() -> None:
    """Return on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def run_main(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a service's main coroutine; a configuration error is printed and ends the process with 2."""
    keep_few_arenas()
    try:
        asyncio.run(run())
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error.message}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
