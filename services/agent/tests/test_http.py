"""The HTTP listener over real mutual TLS: the chain of the gRPC side, limits, ages, rotation and drain."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from services.agent.tests.http_door import DISPATCH, LIMIT, LIST, Door, client_context, opened

from aegis_agent.adapters.http import listener
from aegis_common.testing.audit import lines
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until
from aegis_common.tls import server_dns


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
async def door(mesh: Mesh) -> AsyncIterator[Door]:
    async with opened(mesh) as made:
        yield made


async def test_a_handler_is_a_call_of_its_grpc_method(door: Door, mesh: Mesh) -> None:
    answer = (await door.post("/whoami/me", content=b"hello")).json()

    left = answer.pop("left")
    assert answer == {
        "name": "me",
        "body": "hello",
        "subject": "sdk",
        "tenant": "default",
        "peer": mesh.spiffe_id("sdk"),
    }
    assert 0 < left <= 30


async def test_a_token_counts_as_on_grpc(door: Door, mesh: Mesh) -> None:
    token = mesh.token(sub="carol", roles=["operator"], tenant="acme")
    answer = await door.post("/whoami/me", headers={"authorization": f"Bearer {token}"})

    assert ("carol", "acme") == (answer.json()["subject"], answer.json()["tenant"])


async def test_the_gateway_vouches_and_nobody_else(door: Door, mesh: Mesh) -> None:
    claim = {"x-forwarded-client-cert": f"URI={mesh.spiffe_id('admin')}"}

    via_gateway = (await door.get("/whoami/me", "gateway", headers=claim)).json()
    direct = (await door.get("/whoami/me", "sdk", headers=claim)).json()

    assert ("admin", "sdk") == (via_gateway["subject"], direct["subject"])


async def test_who_may_not_is_refused_and_audited(door: Door, mesh: Mesh) -> None:
    refused = await door.post("/whoami/me", "viewer")
    nobody = await door.get("/whoami/me", "gateway")
    await asyncio.sleep(0.1)
    audited = [(r["method"], r["code"], r["reason"]) for r in calls(mesh)]

    assert 403 == refused.status_code
    assert (7, "ROLE_MISSING") == (refused.json()["code"], refused.json()["details"][0]["reason"])
    assert (401, "Bearer") == (nobody.status_code, nobody.headers["www-authenticate"])
    assert [
        (DISPATCH, "PERMISSION_DENIED", "ROLE_MISSING"),
        (LIST, "UNAUTHENTICATED", "NO_CREDENTIALS"),
    ] == audited


def calls(mesh: Mesh) -> list[dict[str, Any]]:
    files = sorted((mesh.folder / "audit" / "agent").glob("*.jsonl"))
    return [line for file in files for line in lines(file) if line["kind"] == "call"]


async def test_an_error_is_a_status_with_its_details(door: Door) -> None:
    answer = await door.get("/fail")

    assert 400 == answer.status_code
    body = answer.json()
    assert (3, "no such thing") == (body["code"], body["message"])
    assert {"thing": "x"} == body["details"][0]["metadata"]
    assert "thing" == body["details"][1]["fieldViolations"][0]["field"]


async def test_a_route_may_have_errors_of_its_own_form(door: Door) -> None:
    answer = await door.get("/other")

    assert (200, {"error": "no such thing"}) == (answer.status_code, answer.json())


async def test_what_nobody_foresaw_tells_nothing(door: Door) -> None:
    answer = await door.get("/crash")

    assert (500, 13) == (answer.status_code, answer.json()["code"])
    assert "secret" not in answer.text


async def test_unknown_paths_and_verbs_are_told_apart_and_audited(door: Door, mesh: Mesh) -> None:
    unknown, verb = await door.get("/nothing" + "x" * 500), await door.post("/fail")
    bad = await door.get("/nothing", headers={"authorization": "Bearer x.y.z"})
    await asyncio.sleep(0.1)
    audited = [(r["method"][:12], r["code"], r["reason"], r["principal"]["subject"]) for r in calls(mesh)]

    assert (404, 5) == (unknown.status_code, unknown.json()["code"])
    assert (405, "GET") == (verb.status_code, verb.headers["allow"])
    assert (401, 'Bearer error="invalid_token"') == (bad.status_code, bad.headers["www-authenticate"])
    assert [
        ("GET /nothing", "NOT_FOUND", "UNKNOWN_PATH", "sdk"),
        ("POST /fail", "UNIMPLEMENTED", "UNKNOWN_VERB", "sdk"),
        ("GET /nothing", "UNAUTHENTICATED", "TOKEN_INVALID", ""),
    ] == audited
    assert max(len(record["method"]) for record in calls(mesh)) == 128


async def test_a_request_that_says_not_what_it_wants_is_audited(door: Door, mesh: Mesh) -> None:
    bad = await door.get("/wait", headers={"grpc-timeout": "soon"})
    await asyncio.sleep(0.1)

    assert 400 == bad.status_code
    assert [("GET /wait", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "sdk")] == [
        (r["method"], r["code"], r["reason"], r["principal"]["subject"]) for r in calls(mesh)
    ]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused(door: Door, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * LIMIT
        yield b"x"

    answer = await door.post("/whoami/me", content=b"x" * (LIMIT + 1) if declared else chunks())

    assert (413, "BODY_TOO_LARGE") == (answer.status_code, answer.json()["details"][0]["reason"])
    assert "retry-after" not in answer.headers


async def test_a_head_beyond_the_limit_is_refused(door: Door) -> None:
    async with door.client() as client:
        answer = await client.get("/whoami/me", headers={"x-long": "x" * 40_000}, extensions=door.sni())
        with pytest.raises(httpx.TransportError):
            await client.get("/whoami/me", headers={"x-long": "x" * 400_000}, extensions=door.sni())

    assert 400 == answer.status_code


async def test_a_head_that_does_not_end_is_not_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_HEAD_S", 0.2)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        door.http.port,
        ssl=client_context(door.mesh, "sdk"),
        server_hostname=server_dns("agent", "aegis"),
    )
    writer.write(b"GET /whoami/me HTTP/1.1\r\nhost: x\r\n")

    assert b"" == await asyncio.wait_for(reader.read(1), 30)
    writer.close()


async def test_grpc_timeout_is_the_deadline(door: Door) -> None:
    answer = await door.get("/wait", headers={"grpc-timeout": "100m"})
    bad = await door.get("/wait", headers={"grpc-timeout": "soon"})

    assert (504, 400) == (answer.status_code, bad.status_code)
    assert door.handlers.left.is_set()


@pytest.mark.parametrize("path", ["/wait", "/endless"])
async def test_a_client_that_goes_away_stops_the_work(door: Door, mesh: Mesh, path: str) -> None:
    async with door.client() as client:
        asking = asyncio.ensure_future(client.get(path, extensions=door.sni()))
        await asyncio.wait_for(door.handlers.entered.wait(), 30)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(door.handlers.left.wait(), 30)
    await asyncio.sleep(0.1)

    assert ["CANCELLED"] == [record["code"] for record in calls(mesh)]


async def test_who_does_not_read_holds_the_response_no_longer_than_the_call(door: Door, mesh: Mesh) -> None:
    _, writer = await asyncio.open_connection(
        "127.0.0.1",
        door.http.port,
        ssl=client_context(mesh, "sdk"),
        server_hostname=server_dns("agent", "aegis"),
        limit=1,
    )
    writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 500m\r\n\r\n")
    await until(lambda: bool(calls(mesh)), timeout_s=30)
    await until(lambda: not door.http._state.connections, timeout_s=30)
    writer.close()
    whole = await door.get("/large")

    assert ["DEADLINE_EXCEEDED", "OK"] == [record["code"] for record in calls(mesh)]
    assert 32 << 20 == len(whole.content)


async def test_an_error_in_the_middle_breaks_the_response(door: Door) -> None:
    with pytest.raises(httpx.TransportError):
        await door.get("/cut")


async def test_who_has_no_certificate_of_the_mesh_cannot_connect(door: Door, tmp_path: Path) -> None:
    stranger = Mesh(tmp_path / "stranger")
    mixed = client_context(door.mesh, None)
    tls = stranger.tls("sdk")
    mixed.load_cert_chain(tls.cert, tls.key)

    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        await door.get("/healthz", None)
    async with httpx.AsyncClient(verify=mixed, trust_env=False) as client:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.get(f"https://127.0.0.1:{door.http.port}/healthz", extensions=door.sni())


async def test_health_follows_the_service(door: Door) -> None:
    ready = await door.get("/healthz")
    await door.running.set_ready(False)
    leaving = await door.get("/healthz")

    assert (200, 503) == (ready.status_code, leaving.status_code)


async def test_a_new_certificate_is_used_without_a_break(door: Door, mesh: Mesh) -> None:
    before = await served_certificate(door)
    async with door.client() as client:
        assert 200 == (await client.get("/whoami/me", extensions=door.sni())).status_code
        mesh.rotate("agent")
        async with asyncio.timeout(30):
            while await served_certificate(door) == before:  # noqa: ASYNC110  # a file is being watched
                await asyncio.sleep(0.1)

        assert 200 == (await client.get("/whoami/me", extensions=door.sni())).status_code


async def served_certificate(door: Door) -> bytes:
    _, writer = await asyncio.open_connection(
        "127.0.0.1",
        door.http.port,
        ssl=client_context(door.mesh, "sdk"),
        server_hostname=server_dns("agent", "aegis"),
    )
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def test_responses_are_not_held_back_to_fill_a_packet(door: Door) -> None:
    async with door.client() as client:
        await client.get("/whoami/me", extensions=door.sni())
        [connection] = door.http._state.connections
        plain = connection.transport.get_extra_info("socket")

        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_an_old_connection_ends_with_a_response(mesh: Mesh) -> None:
    async with opened(mesh, age=timedelta(seconds=0.2)) as door, door.client() as client:
        first = await client.get("/whoami/me", extensions=door.sni())
        await asyncio.sleep(0.3)
        second = await client.get("/whoami/me", extensions=door.sni())

    assert (None, "close") == (first.headers.get("connection"), second.headers.get("connection"))


async def test_a_drain_lets_short_calls_end_and_stops_long_ones(mesh: Mesh) -> None:
    async with opened(mesh) as door, door.client() as client:
        asking = asyncio.ensure_future(client.get("/wait", extensions=door.sni(), timeout=30))
        await asyncio.wait_for(door.handlers.entered.wait(), 30)

    outcome: Any = (await asyncio.gather(asking, return_exceptions=True))[0]
    assert door.handlers.left.is_set()
    assert isinstance(outcome, httpx.TransportError) or outcome.status_code >= 500
    assert ["CANCELLED"] == [record["code"] for record in calls(mesh)]
