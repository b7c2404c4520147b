"""A further listener of a service: opened with the chain of the gRPC side, closed with its drain."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2
from pydantic_settings import SettingsConfigDict

from aegis_common.errors import ConfigurationError
from aegis_common.rpc.call import Call, current_call
from aegis_common.rpc.chain import Chain
from aegis_common.rpc.health import Health
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.audit import lines
from aegis_common.testing.pki import Mesh
from aegis_common.tls import IdentityFiles, server_context, server_dns

LIST_ZONES = "/aegis.carbon.v1.CarbonService/ListZones"
ROUNDS = "/aegis.fl.v1.RoundService/AwaitRound"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="AEGIS_TEST_")


class Refused(Exception):
    pass


class Transport:
    """A transport that is not gRPC."""

    status: status_pb2.Status | None = None

    def code(self) -> None:
        return None

    async def abort_with_status(self, status: grpc.Status) -> object:
        raise Refused(status.code.name)


class Door:
    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.chain: Chain | None = None
        self.health: Health | None = None
        self.told: list[str] = []

    async def open(self, chain: Chain, *, files: IdentityFiles, health: Health) -> None:
        if self.fails:
            raise ConfigurationError("no such address")
        self.chain, self.health = chain, health
        self.told.append("open")

    async def close(self, within: timedelta) -> None:
        if self.health is not None:
            self.told.append(f"close {within.total_seconds():g} ready={self.health.ready}")

    async def call(self, path: str, peer: str, note: str = "") -> str:
        assert self.chain is not None
        call = Call.begin(self.chain.rule(path), metadata=(), peer_spiffe_id=peer, timeout_s=None)
        if note:
            call.notes["tool"] = note

        async def subject() -> str:
            return current_call().principal.subject

        return await self.chain.serve(call, Transport(), subject)  # type: ignore[arg-type]  # it raises, as it must


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
async def door(mesh: Mesh) -> AsyncIterator[Door]:
    made = Door()
    settings = Settings(**mesh.service_kwargs("carbon"), drain=timedelta(seconds=0.1))
    async with serving(settings, name="carbon", add=[], doors=[made]):
        yield made


async def test_its_calls_go_through_the_same_chain(door: Door, mesh: Mesh) -> None:
    assert "sdk" == await door.call(LIST_ZONES, mesh.spiffe_id("sdk"), note="x")
    with pytest.raises(Refused, match="PERMISSION_DENIED"):
        await door.call(ROUNDS, mesh.spiffe_id("sdk"))
    with pytest.raises(Refused, match="PERMISSION_DENIED"):
        await door.call("/no.such.Service/Method", mesh.spiffe_id("sdk"))
    await asyncio.sleep(0.1)

    [file] = (mesh.folder / "audit" / "carbon").glob("*.jsonl")
    calls = [line for line in lines(file) if line["kind"] == "call"]
    assert [(LIST_ZONES, "OK"), (ROUNDS, "PERMISSION_DENIED")] == [
        (line["method"], line["code"]) for line in calls[:2]
    ]
    assert [{"tool": "x"}, None] == [line.get("notes") for line in calls[:2]]


async def test_it_is_closed_with_the_drain_and_once_more_for_sure(mesh: Mesh) -> None:
    made = Door()
    settings = Settings(**mesh.service_kwargs("carbon"), drain=timedelta(seconds=0.1))
    async with serving(settings, name="carbon", add=[], doors=[made]):
        assert made.health is not None
        assert made.health.ready

    assert ["open", "close 0.1 ready=False", "close 0 ready=False"] == made.told


async def test_one_that_cannot_open_closes_those_before_it(mesh: Mesh) -> None:
    first = Door()
    settings = Settings(**mesh.service_kwargs("carbon"))

    with pytest.raises(ConfigurationError, match="no such address"):
        async with serving(settings, name="carbon", add=[], doors=[first, Door(fails=True)]):
            pass

    assert ["open", "close 0 ready=False"] == first.told


@pytest.mark.parametrize("account", ["sdk", None])
async def test_the_tls_side_wants_a_certificate_of_the_mesh(mesh: Mesh, account: str | None) -> None:
    context = server_context(IdentityFiles.of(mesh.tls("carbon")).read(), protocols=["http/1.1"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    client = ssl.create_default_context(cafile=str(mesh.ca.bundle))
    client.set_alpn_protocols(["http/1.1"])
    if account:
        client.load_cert_chain(mesh.tls(account).cert, mesh.tls(account).key)
    port = server.sockets[0].getsockname()[1]
    got = b""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=server_dns("carbon", "aegis")
        )
        writer.write(b"x")
        got = await reader.read(1)
        assert "http/1.1" == writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
    except (ssl.SSLError, ConnectionError):
        assert account is None
    finally:
        server.close()

    assert (b"x" if account else b"") == got
