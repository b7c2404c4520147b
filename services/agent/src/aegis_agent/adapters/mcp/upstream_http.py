"""How MCP servers elsewhere are reached: bounded in what they may answer, and not waited for at the end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2

MAX_RESPONSE_BYTES: Final = 16 << 20
"""Most bytes of one response, all its messages together."""
MAX_RESPONSE_PARTS: Final = 500_000
"""Most lists and objects in one response, about: the parser of the library makes them all at once."""
_FAREWELL_S: Final = 2.0
_CONNECT_S: Final = 10.0
_ENCODING: Final = "content-encoding"


class ResponseBroken(httpx2.StreamError):
    """A response is too large or broke off; of a kind for which the library ends the call."""


def upstream_client(
    *, ca: Path | None, token_file: Path | None, concurrency: int, timeout_s: float
) -> httpx2.AsyncClient:
    """Return a client for one server.

    Args:
        ca: CA certificates, or None for the system's.
        token_file: File with a bearer token, read for each request, or None.
        concurrency: Most calls at once.
        timeout_s: How long the server may say nothing.
    """

    async def prepare(request: httpx2.Request) -> None:
        if request.method == "DELETE":  # the end of a session
            request.extensions["timeout"] = httpx2.Timeout(_FAREWELL_S).as_dict()
        if token_file is not None:
            text = await asyncio.to_thread(token_file.read_text, "ascii")
            request.headers["authorization"] = f"Bearer {text.strip()}"

    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    # A session of the older protocol holds a second connection, for what the server says by itself.
    limits = httpx2.Limits(max_connections=2 * (concurrency + 1))
    return httpx2.AsyncClient(
        transport=_Bounded(httpx2.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)),
        trust_env=False,
        headers={"accept-encoding": "identity"},
        timeout=httpx2.Timeout(_CONNECT_S, read=timeout_s),
        event_hooks={"request": [prepare]},
    )


class _Bounded(httpx2.AsyncBaseTransport):
    """Refuses responses that are too large, and compressed ones: of those nobody knows."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        encoding = response.headers.get(_ENCODING, "identity")
        if encoding.lower() != "identity":
            await response.aclose()
            raise httpx2.ReadError(
                f"it answers in the content encoding {encoding[:50]!r}, which was not asked for"
            )
        response.stream = _Counted(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = parts = 0
        try:
            async for chunk in self._inner:
                size += len(chunk)
                parts += chunk.count(b"[") + chunk.count(b"{")
                if size > MAX_RESPONSE_BYTES:
                    raise ResponseBroken(f"it has more than {MAX_RESPONSE_BYTES} bytes")
                if parts > MAX_RESPONSE_PARTS:
                    raise ResponseBroken(f"it has more than {MAX_RESPONSE_PARTS} lists and objects")
                yield chunk
        except httpx2.TransportError as error:
            raise ResponseBroken(f"it broke off: {str(error) or type(error).__name__}") from error

    async def aclose(self) -> None:
        await self._inner.aclose()
