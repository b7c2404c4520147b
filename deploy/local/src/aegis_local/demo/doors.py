"""The two public doors of a stack: HTTPS with JSON for people, gRPC for machines."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from aegis_client.client import AsyncClient
from aegis_client.profiles import load_profile
from aegis_local.runner import Stack

_KNOCK_TIMEOUT_S: Final = 10


@asynccontextmanager
async def people(stack: Stack, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Open the people's door: TLS, and a bearer token (the user `demo`, an operator, unless given)."""
    bearer = token or stack.issuer.mint(roles=["operator"], subject="demo")
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{stack.layout.ports['people']}",
        headers={"Authorization": f"Bearer {bearer}"},
        verify=_trust(stack),
        timeout=60,
        trust_env=False,
    ) as client:
        yield client


def machines(stack: Stack, account: str = "sdk") -> AsyncClient:
    """Return a client at the machines' door: gRPC with the certificate of *account*."""
    return AsyncClient(load_profile(account, file=stack.layout.state.profiles))


def knock_without_certificate(stack: Stack) -> str:
    """Knock at the machines' door with no client certificate; return the TLS alert, or what came instead."""
    place = ("localhost", stack.layout.ports["machines"])
    with (
        socket.create_connection(place, timeout=_KNOCK_TIMEOUT_S) as plain,
        _trust(stack).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        try:
            # Nothing is sent: a closed door would answer that with a reset, and the alert would be lost.
            return tls.recv(64).decode(errors="replace") or "closed without an alert"
        except ssl.SSLError as error:
            return error.reason or str(error)
        except TimeoutError:
            return "the door stays open"


def _trust(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(stack.layout.credentials.bundle))
