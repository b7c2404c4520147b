"""What HTTP requests and responses hold in memory: bounded together, shared fairly, and given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from services.agent.tests.http_door import LARGE, LIMIT, Door, opened

from aegis_agent.adapters.http.room import BodiesFull, Room
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def of(mesh: Mesh, tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {mesh.token(roles=['operator'], tenant=tenant)}"}


@asynccontextmanager
async def unread(door: Door, path: str, tenant: str) -> AsyncIterator[httpx.Response]:
    """A response whose head alone is read."""
    async with (
        door.client() as client,
        client.stream("GET", path, headers=of(door.mesh, tenant), extensions=door.sni()) as response,
    ):
        yield response


async def test_all_bodies_together_have_a_bound_and_give_their_room_back(mesh: Mesh) -> None:
    body = b"x" * LIMIT
    async with opened(mesh, bodies=2 * LIMIT) as door, door.client() as client:
        asking = asyncio.ensure_future(client.post("/wait", content=body, extensions=door.sni()))
        await asyncio.wait_for(door.handlers.entered.wait(), 30)
        refused = await door.post("/whoami/me", content=body)
        small = await door.post("/whoami/me", content=body[: LIMIT // 2])
        asking.cancel()
        await asyncio.wait_for(door.handlers.left.wait(), 30)
        await until(lambda: door.http._bodies.held == 0, timeout_s=30)
        again = await door.post("/whoami/me", content=body)

    assert (503, "1", 8) == (refused.status_code, refused.headers["retry-after"], refused.json()["code"])
    assert "BODIES_FULL" == refused.json()["details"][0]["reason"]
    assert (200, 200) == (small.status_code, again.status_code)


@pytest.mark.parametrize("path", ["/wait", "/read-first"])
async def test_a_tenant_leaves_room_for_the_bodies_of_others(mesh: Mesh, path: str) -> None:
    body = b"x" * LIMIT
    async with opened(mesh, bodies=4 * LIMIT) as door, AsyncExitStack() as stack:
        greedy, other = of(mesh, "greedy"), of(mesh, "other")
        client = await stack.enter_async_context(door.client())
        asking = [
            asyncio.ensure_future(client.post(path, content=body, headers=greedy, extensions=door.sni()))
            for _ in range(3)
        ]
        await until(lambda: door.http._bodies.held == 3 * LIMIT, timeout_s=30)
        refused = await door.post(path, headers=greedy, content=body)
        served = await door.post("/whoami/me", headers=other, content=body[: LIMIT // 2])
        for task in asking:
            task.cancel()

    assert (503, "BODIES_FULL") == (refused.status_code, refused.json()["details"][0]["reason"])
    assert (200, "other") == (served.status_code, served.json()["tenant"])


@pytest.mark.parametrize("path", ["/whoami/me", "/nothing"])
async def test_a_refused_body_takes_no_room(mesh: Mesh, path: str) -> None:
    async with opened(mesh, bodies=2 * LIMIT) as door:
        for _ in range(3):
            await door.post(path, content=b"x" * (LIMIT + 1))

        assert 0 == door.http._bodies.held


async def test_responses_that_nobody_reads_have_a_bound_and_leave_room_for_others(mesh: Mesh) -> None:
    async with opened(mesh, responses=LARGE + LARGE // 2) as door:
        async with unread(door, "/large", "greedy") as response:
            assert (200, LARGE) == (response.status_code, door.http._responses.held)
            refused = await door.get("/large", headers=of(mesh, "greedy"))
            served = await door.get("/whoami/me", headers=of(mesh, "other"))
        await until(lambda: door.http._responses.held == 0, timeout_s=30)
        again = await door.get("/large", headers=of(mesh, "greedy"))

    assert (503, "RESPONSE_LOST") == (refused.status_code, refused.json()["details"][0]["reason"])
    assert "retry-after" not in refused.headers
    assert (200, 200, LARGE) == (served.status_code, again.status_code, len(again.content))


async def test_who_reads_nothing_gets_no_more_work_done(mesh: Mesh) -> None:
    async with opened(mesh, responses=LARGE + LARGE // 2) as door, unread(door, "/large", "greedy"):
        door.http._responses.take("other", LARGE // 4)
        refused = await door.get("/wait", headers=of(mesh, "greedy"))

        assert (503, "1") == (refused.status_code, refused.headers["retry-after"])
        assert not door.handlers.entered.is_set()


async def test_a_stream_that_outgrows_the_room_is_cut(mesh: Mesh) -> None:
    async with opened(mesh, responses=LARGE) as door:
        with pytest.raises(httpx.RemoteProtocolError):
            await door.get("/one-piece")

        assert 0 == door.http._responses.held


@pytest.mark.parametrize("tenants", [1, 2, 5, 40])
def test_however_many_hold_all_they_may_there_is_room_for_one_more(tenants: int) -> None:
    room = Room(1 << 20, "bodies", BodiesFull)
    names = [f"tenant-{number}" for number in range(tenants)]
    refused = 0
    while refused < tenants:  # each takes as long as it gets something
        refused = 0
        for name in names:
            try:
                room.take(name, 64)
            except BodiesFull:
                refused += 1

    share = (1 << 20) // (3 * tenants + 1)
    held = [room._held[name] for name in names]
    assert max(held) - min(held) <= 64
    assert share - 256 <= min(held)
    room.take("new", share // 2)
