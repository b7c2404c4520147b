"""A tool's stream through the gateway: JSON lines, events and gRPC, and an end that stops the work."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.agent_servicer import AgentServicer
from aegis_agent.context import AsyncContext
from aegis_client import AsyncClient, Profile, ToolItem, ToolResult
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings, TokenSettings
from aegis_common.testing.pki import ISSUER, Mesh
from aegis_common.testing.ports import free_ports
from aegis_gateway.config import GatewaySettings
from aegis_gateway.testing import running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
stopped = asyncio.Event()


async def count(to: int, context: AsyncContext) -> AsyncIterator[dict[str, int]]:
    """Counts, and fails at 13."""
    for number in range(to):
        await context.progress(number, to)
        if number == 13:
            raise ValueError("unlucky")
        yield {"number": number}


async def endless() -> AsyncIterator[str]:
    try:
        while True:
            yield "again"
            await asyncio.sleep(0.01)
    finally:
        stopped.set()


class Doors:
    def __init__(self, mesh: Mesh, settings: GatewaySettings) -> None:
        self.mesh = mesh
        self.settings = settings

    def http(self) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.mesh.tls("gateway").bundle))
        headers = {"authorization": f"Bearer {self.mesh.token()}"}
        url = f"https://{self.settings.people_listen}"
        return httpx.AsyncClient(
            verify=context, base_url=url, headers=headers, timeout=GUARD_S, trust_env=False
        )

    def client(self) -> AsyncClient:
        tls = self.mesh.tls("sdk")
        address = self.settings.machines_listen
        return AsyncClient(Profile(address=address, ca=tls.bundle, cert=tls.cert, key=tls.key))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    folder: Path = tmp_path_factory.mktemp("streams")
    mesh = Mesh(folder)
    machines, people, ops, nobody = free_ports(4)
    token = TokenSettings(issuer=ISSUER, jwks=str(mesh.jwks))
    agent = ServiceSettings(**{**mesh.service_kwargs("agent"), "token": token})
    async with AgentManager() as manager:
        manager.register_tool("count", count)
        manager.register_tool("endless", endless)
        servicer = AgentServicer(manager.registry, manager.dispatcher)
        add = [(pb_grpc.add_AgentServiceServicer_to_server, servicer)]
        async with serving(agent, name="agent", add=add) as running:
            settings = GatewaySettings(
                machines_listen=f"127.0.0.1:{machines}",
                people_listen=f"127.0.0.1:{people}",
                ops_listen=f"127.0.0.1:{ops}",
                tls=mesh.tls("gateway"),
                identities=mesh.identities,
                token=token,
                agent=f"127.0.0.1:{running.port}",
                carbon=f"127.0.0.1:{nobody}",
                fl_coordinator=f"127.0.0.1:{nobody}",
            )
            gateway = running_gateway(settings, folder / "gateway")
            await asyncio.to_thread(gateway.__enter__)
            try:
                yield Doors(mesh, settings)
            finally:
                await asyncio.to_thread(gateway.__exit__, None, None, None)


def body(**arguments: Any) -> dict[str, Any]:
    return {"payload": [{"json": arguments}]} if arguments else {}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [next(iter(event)) for event in events]


async def test_http_clients_read_json_lines_up_to_the_result(doors: Doors) -> None:
    async with doors.http() as http:
        answer = await http.post("/v1/tools/count:dispatchStream", json=body(to=2))
    events = [json.loads(line) for line in answer.text.splitlines()]

    assert answer.status_code == 200
    assert kinds(events) == ["started", "progress", "item", "progress", "item", "result"]
    assert events[4]["item"] == {"index": "1", "parts": [_part({"number": 1.0})]}


def _part(value: dict[str, float]) -> dict[str, Any]:
    return {"name": "", "json": value, "mediaType": "", "filename": ""}


async def test_browsers_read_events(doors: Doors) -> None:
    headers = {"accept": "text/event-stream"}
    async with doors.http() as http:
        answer = await http.post("/v1/tools/count:dispatchStream", json=body(to=1), headers=headers)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert kinds(events) == ["started", "progress", "item", "result"]


async def test_a_failure_on_the_way_is_the_last_line(doors: Doors) -> None:
    async with doors.http() as http:
        answer = await http.post("/v1/tools/count:dispatchStream", json=body(to=99))
    last = json.loads(answer.text.splitlines()[-1])

    assert (answer.status_code, last["error"]["details"][0]["reason"]) == (200, "TOOL_FAILED")


async def test_a_refusal_is_a_status_with_its_reason(doors: Doors) -> None:
    async with doors.http() as http:
        unknown = await http.post("/v1/tools/cuont:dispatchStream", json={})
        wrong = await http.post("/v1/tools/count:dispatchStream", json=body(to="two"))

    assert (unknown.status_code, unknown.json()["details"][0]["reason"]) == (404, "UNKNOWN_TOOL")
    assert (wrong.status_code, wrong.json()["details"][0]["reason"]) == (400, "INVALID_TOOL_INPUT")


async def test_a_client_that_hangs_up_stops_the_work(doors: Doors) -> None:
    async with (
        doors.http() as http,
        http.stream("POST", "/v1/tools/endless:dispatchStream", json={}) as answer,
    ):
        lines = answer.aiter_lines()
        while "item" not in await anext(lines):
            pass

    async with asyncio.timeout(GUARD_S):
        await stopped.wait()


async def test_the_sdk_streams_through_the_gateway(doors: Doors) -> None:
    async with doors.client() as client:
        events = [event async for event in client.tools.stream("count", {"to": 3})]

    assert [item.value for item in events if isinstance(item, ToolItem)] == [{"number": n} for n in range(3)]
    assert isinstance(events[-1], ToolResult)
