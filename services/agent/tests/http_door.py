"""The HTTP listener over real mutual TLS, and handlers that its tests ask."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
from pydantic_settings import SettingsConfigDict
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from aegis_agent.adapters.http.listener import HttpDoor
from aegis_agent.adapters.http.routes import Operation, Request, Route
from aegis_common.errors import DeadlineExceeded, InvalidArgument
from aegis_common.rpc.call import current_call
from aegis_common.rpc.server import Running, serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.tls import server_dns

LIST = "/aegis.agent.v1.AgentService/ListTools"
DISPATCH = "/aegis.agent.v1.AgentService/Dispatch"
LIMIT = 1 << 16
LARGE = 32 << 20
"""More than sockets take when nobody reads."""


class Handlers:
    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()

    async def whoami(self, request: Request) -> ASGIApp:
        call = current_call()
        return JSONResponse(
            {
                "name": request.parameters["name"],
                "body": (await request.body()).decode(),
                "subject": call.principal.subject,
                "tenant": call.principal.tenant,
                "peer": call.peer_spiffe_id,
                "left": call.time_remaining(),
            }
        )

    async def fail(self, request: Request) -> ASGIApp:
        raise InvalidArgument("no such thing", violations={"thing": "unknown"}, thing="x")

    async def crash(self, request: Request) -> ASGIApp:
        raise RuntimeError("secret")

    async def wait(self, request: Request) -> ASGIApp:
        self.entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.left.set()
        return Response()

    async def endless(self, request: Request) -> ASGIApp:
        async def lines() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"line\n"
                    self.entered.set()
                    await asyncio.sleep(0.01)
            finally:
                self.left.set()

        return StreamingResponse(lines())

    async def large(self, request: Request) -> ASGIApp:
        return Response(bytes(LARGE))

    async def read_first(self, request: Request) -> Operation:
        await request.body()
        return Operation(DISPATCH)

    async def one_piece(self, request: Request) -> ASGIApp:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(LARGE)

        return StreamingResponse(pieces())

    async def cut(self, request: Request) -> ASGIApp:
        async def lines() -> AsyncIterator[bytes]:
            yield b"half"
            raise DeadlineExceeded("over")

        return StreamingResponse(lines())

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/whoami/{name}", DISPATCH, self.whoami, max_body_bytes=LIMIT),
            Route("GET", "/whoami/{name}", LIST, self.whoami),
            Route("GET", "/fail", LIST, self.fail),
            Route("GET", "/crash", LIST, self.crash),
            Route("GET", "/wait", LIST, self.wait),
            Route("POST", "/wait", DISPATCH, self.wait, max_body_bytes=LIMIT),
            Route("POST", "/read-first", self.read_first, self.wait, max_body_bytes=LIMIT),
            Route("GET", "/one-piece", LIST, self.one_piece),
            Route("GET", "/endless", LIST, self.endless),
            Route("GET", "/cut", LIST, self.cut),
            Route("GET", "/large", LIST, self.large),
            Route("GET", "/other", LIST, self.fail, on_error=lambda s, _: JSONResponse({"error": s.message})),
        ]


class Door:
    def __init__(self, mesh: Mesh, http: HttpDoor, handlers: Handlers, running: Running) -> None:
        self.mesh, self.http, self.handlers, self.running = mesh, http, handlers, running

    def client(self, account: str | None = "sdk", **options: Any) -> httpx.AsyncClient:
        context = client_context(self.mesh, account)
        return httpx.AsyncClient(
            verify=context, base_url=f"https://127.0.0.1:{self.http.port}", trust_env=False, **options
        )

    async def get(self, path: str, account: str | None = "sdk", **options: Any) -> httpx.Response:
        async with self.client(account) as client:
            return await client.get(path, extensions=self.sni(), timeout=30, **options)

    async def post(self, path: str, account: str | None = "sdk", **options: Any) -> httpx.Response:
        async with self.client(account) as client:
            return await client.post(path, extensions=self.sni(), timeout=30, **options)

    def sni(self) -> dict[str, str]:
        return {"sni_hostname": server_dns("agent", "aegis")}


def client_context(mesh: Mesh, account: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(mesh.ca.bundle))
    if account is not None:
        tls = mesh.tls(account)
        context.load_cert_chain(tls.cert, tls.key)
    return context


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="AEGIS_AGENT_")


@asynccontextmanager
async def opened(
    mesh: Mesh,
    *,
    age: timedelta = timedelta(minutes=10),
    drain_s: float = 0.2,
    bodies: int = 1 << 20,
    responses: int = 1 << 30,
) -> AsyncIterator[Door]:
    handlers = Handlers()
    http = HttpDoor(
        "127.0.0.1:0",
        handlers.routes(),
        max_connection_age=age,
        max_bodies_bytes=bodies,
        max_responses_bytes=responses,
    )
    settings = Settings(**mesh.service_kwargs("agent"), drain=timedelta(seconds=drain_s))
    async with serving(settings, name="agent", add=[], doors=[http]) as running:
        yield Door(mesh, http, handlers, running)
