"""Asks a process whether it really answers, the way its callers would ask it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, Final

import httpx

from aegis_local.supervisor.spec import NotReady, Probe

TIMEOUT_S: Final = 3.0


def redis_ping(socket: Path) -> Probe:
    """Ready when Redis on the unix *socket* answers PONG, which it does once its data is loaded."""

    async def probe() -> None:
        reader, writer = await asyncio.open_unix_connection(str(socket))
        try:
            writer.write(b"PING\r\n")
            answer = await asyncio.wait_for(reader.readline(), TIMEOUT_S)
        except TimeoutError as error:
            raise NotReady(f"no answer to PING within {TIMEOUT_S:g} s") from error
        finally:
            writer.close()
        if answer.strip() != b"+PONG":
            raise NotReady(f"answered {answer.decode(errors='replace').strip()!r} to PING")

    return probe


def grpc_health(target: str, *, server_name: str, cert: Path, key: Path, bundle: Path) -> Probe:
    """Ready when the server's certificate is for *server_name* and its health service says SERVING."""

    async def probe() -> None:
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        credentials = grpc.ssl_channel_credentials(*map(_read, (bundle, key, cert)))
        options = (("grpc.ssl_target_name_override", server_name), ("grpc.enable_retries", 0))
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise NotReady(f"{error.code().name}: {error.details()}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise NotReady(f"health is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")

    return probe


def https_ok(
    url: str,
    *,
    bundle: Path,
    cert: Path | None = None,
    key: Path | None = None,
    server_name: str = "",
    expect: int = 200,
) -> Probe:
    """Ready when a GET of *url* is answered with *expect* by a server that *bundle* vouches for.

    Args:
        url: Where to ask.
        bundle: Trusted CA certificates.
        cert: Client certificate, for a server that wants one; needs *key*.
        key: Its key.
        server_name: DNS SAN that the server must have, if not the host of *url*.
        expect: HTTP status that says it works.
    """

    async def probe() -> None:
        context = ssl.create_default_context(cafile=str(bundle))
        if cert is not None and key is not None:
            context.load_cert_chain(str(cert), str(key))
        extensions = {"sni_hostname": server_name} if server_name else {}
        try:
            async with httpx.AsyncClient(verify=context, timeout=TIMEOUT_S, trust_env=False) as client:
                answer = await client.get(url, extensions=extensions)
        except (httpx.HTTPError, OSError) as error:
            raise NotReady(f"{type(error).__name__}: {error}") from error
        if answer.status_code != expect:
            raise NotReady(f"GET {url} answered {answer.status_code}: {answer.text[:200]}")

    return probe


def _read(path: Path) -> bytes:
    return path.read_bytes()
