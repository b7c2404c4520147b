"""Credentials that follow their files, on real servers and clients."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from aegis_common.errors import ConfigurationError
from aegis_common.pki import DevCa, read_not_after, server_dns
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until
from aegis_common.tls import (
    CertificateWatcher,
    IdentityFiles,
    Material,
    channel_credentials,
    server_credentials,
)

QUICK = timedelta(milliseconds=20)


def files_of(mesh: Mesh, account: str) -> IdentityFiles:
    return IdentityFiles.of(mesh.tls(account))


def loose_copy(mesh: Mesh, account: str, folder: Path) -> IdentityFiles:
    """Copy the files of *account* to plain files, which can be torn."""
    tls = mesh.tls(account)
    folder.mkdir()
    files = IdentityFiles(folder / "c.crt", folder / "c.key", folder / "b.crt")
    for source, target in ((tls.cert, files.cert), (tls.key, files.key), (tls.bundle, files.bundle)):
        shutil.copy(source, target)
    return files


class Who(grpc.GenericRpcHandler):
    """Answers each call with the SPIFFE id of the client."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def who(_: bytes, context: Any) -> bytes:
            return bytes(b"".join(context.auth_context().get("peer_spiffe_id", [])))

        return grpc.unary_unary_rpc_method_handler(who)


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials, *, age_ms: int = 600_000) -> AsyncIterator[int]:
    options = [("grpc.max_connection_age_ms", age_ms), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((Who(),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def ask(channel: grpc.aio.Channel) -> str:
    method: Any = channel.unary_unary("/t/Who")
    reply: bytes = await method(b"", timeout=10)
    return reply.decode()


async def call(port: int, material: Material, *, name: str = "carbon") -> str:
    """Call over a fresh connection and return whom the server saw."""
    options = [
        ("grpc.ssl_target_name_override", server_dns(name, "aegis")),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{port}", channel_credentials(material), options
    ) as channel:
        return await ask(channel)


async def code_of(port: int, material: Material, **kwargs: str) -> grpc.StatusCode:
    try:
        await call(port, material, **kwargs)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_read_returns_what_the_files_hold(mesh: Mesh) -> None:
    material = files_of(mesh, "carbon").read()

    assert material.spiffe_id == "spiffe://aegis.local/ns/aegis/sa/carbon"
    assert material.not_after == read_not_after(mesh.tls("carbon").cert.read_bytes())
    assert "PRIVATE" not in repr(material)


@pytest.mark.parametrize("name", ["cert", "key", "bundle"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "empty"])
def test_a_bad_file_is_refused_by_its_name(mesh: Mesh, tmp_path: Path, name: str, damage: str) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    path: Path = getattr(files, name)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"garbage" if damage == "garbage" else b"")

    with pytest.raises(ConfigurationError) as caught:
        files.read()

    assert str(path) in caught.value.message
    assert caught.value.metadata["path"] == str(path)


def test_a_key_of_another_certificate_is_refused_by_its_name(mesh: Mesh, tmp_path: Path) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    shutil.copy(mesh.tls("agent").key, files.key)

    with pytest.raises(ConfigurationError, match="not the key of"):
        files.read()


def test_a_torn_pair_keeps_the_old_one_and_counts_once(mesh: Mesh, tmp_path: Path) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    good = files.latest()
    mesh.rotate("carbon")
    shutil.copy(mesh.tls("carbon").cert, files.cert)

    for _ in range(3):
        assert files.latest() is good
    assert (files.stats().failed_reloads, files.stats().reloads) == (1, 0)

    shutil.copy(mesh.tls("carbon").key, files.key)
    assert files.latest() is not good
    assert (files.stats().failed_reloads, files.stats().reloads) == (1, 1)


def test_each_bad_content_counts_and_the_return_of_the_old_one_is_no_reload(
    mesh: Mesh, tmp_path: Path
) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    good = files.latest()
    key = files.key.read_bytes()
    files.key.write_bytes(b"bad")
    files.latest()
    files.key.unlink()
    files.latest()
    files.latest()
    files.key.write_bytes(key)

    assert files.latest() is good
    assert (files.stats().failed_reloads, files.stats().reloads) == (2, 0)


def test_stats_give_the_end_of_what_is_in_use(mesh: Mesh) -> None:
    files = files_of(mesh, "carbon")
    assert files.stats().not_after == {}
    files.latest()

    assert files.stats().not_after == {
        str(files.cert): read_not_after(files.cert.read_bytes()),
        str(files.bundle): read_not_after(files.bundle.read_bytes()),
    }


def test_many_threads_get_one_and_the_same_material(mesh: Mesh) -> None:
    files = files_of(mesh, "carbon")
    files.latest()
    mesh.rotate("carbon")
    found: list[Material] = []
    threads = [threading.Thread(target=lambda: found.append(files.latest())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(material) for material in found}) == 1
    assert files.stats().reloads == 1


async def test_the_server_sees_the_client_and_refuses_strangers(mesh: Mesh, tmp_path: Path) -> None:
    stranger = DevCa.load_or_create(tmp_path / "other")
    stranger.issue("agent")
    foreign = IdentityFiles(*stranger.leaf("agent"), mesh.ca.bundle).read()
    material = files_of(mesh, "agent").read()
    async with serving(server_credentials(files_of(mesh, "carbon"))) as port:
        assert await call(port, material) == "spiffe://aegis.local/ns/aegis/sa/agent"
        assert await code_of(port, foreign) is grpc.StatusCode.UNAVAILABLE
        assert await code_of(port, material, name="agent") is grpc.StatusCode.UNAVAILABLE


async def test_a_client_without_a_certificate_is_refused(mesh: Mesh) -> None:
    bundle = mesh.ca.bundle.read_bytes()
    options = [("grpc.ssl_target_name_override", server_dns("carbon", "aegis"))]
    async with (
        serving(server_credentials(files_of(mesh, "carbon"))) as port,
        grpc.aio.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(bundle), options
        ) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_expired_client_is_refused_on_a_new_connection(mesh: Mesh) -> None:
    mesh.rotate("agent", ttl=timedelta(seconds=-1))
    async with serving(server_credentials(files_of(mesh, "carbon"))) as port:
        assert await code_of(port, files_of(mesh, "agent").read()) is grpc.StatusCode.UNAVAILABLE


async def test_a_live_server_takes_a_new_certificate_at_the_next_handshake(mesh: Mesh) -> None:
    taken: list[Material] = []
    client = files_of(mesh, "agent").read()
    async with serving(server_credentials(files_of(mesh, "carbon"), taken.append)) as port:
        await call(port, client)
        assert taken == []
        mesh.rotate("carbon")
        await call(port, client)
        await call(port, client)

    assert [material.cert for material in taken] == [mesh.tls("carbon").cert.read_bytes()]


async def test_a_live_server_keeps_the_old_certificate_while_the_files_are_torn(
    mesh: Mesh, tmp_path: Path
) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    client = files_of(mesh, "agent").read()
    async with serving(server_credentials(files)) as port:
        files.key.write_bytes(mesh.tls("agent").key.read_bytes())
        assert await code_of(port, client) is grpc.StatusCode.OK
        files.bundle.write_bytes(b"")
        assert await code_of(port, client) is grpc.StatusCode.OK
        files.cert.unlink()
        assert await code_of(port, client) is grpc.StatusCode.OK

    assert files.stats().failed_reloads == 3


class Swapped:
    """A channel that is replaced when the certificate is; the old one ends its calls."""

    def __init__(self, port: int, material: Material) -> None:
        self.port = port
        self.closing: list[asyncio.Task[None]] = []
        self.swaps = 0
        self._connect(material)

    def _connect(self, material: Material) -> None:
        self.material = material
        options = [("grpc.ssl_target_name_override", server_dns("carbon", "aegis"))]
        target = f"127.0.0.1:{self.port}"
        self.channel = grpc.aio.secure_channel(target, channel_credentials(material), options)

    def swap(self, material: Material) -> None:
        self.closing.append(asyncio.create_task(self.channel.close(10)))
        self._connect(material)
        self.swaps += 1

    async def call(self) -> grpc.StatusCode:
        try:
            await ask(self.channel)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_certificates_and_authority_roll_over_under_live_calls(mesh: Mesh) -> None:
    """Renew, then add, switch and drop the authority: no call fails, over connections old or new."""
    files = files_of(mesh, "agent")
    results: list[grpc.StatusCode] = []
    stop = asyncio.Event()

    def renew() -> None:
        mesh.rotate("carbon")
        mesh.rotate("agent")

    def switch() -> None:
        mesh.ca.switch_ca()
        renew()

    credentials = server_credentials(files_of(mesh, "carbon"))
    async with serving(credentials, age_ms=300) as port:
        client = Swapped(port, files.latest())

        async def load(fresh: bool) -> None:
            while not stop.is_set():
                results.append(await (code_of(port, client.material) if fresh else client.call()))

        async with CertificateWatcher(files, client.swap, interval=QUICK):
            calls = asyncio.gather(load(True), load(False), load(False))
            for step in (renew, mesh.ca.add_ca, switch, mesh.ca.drop_old_cas):
                swaps = client.swaps
                step()
                await until(lambda swaps=swaps: client.swaps > swaps)  # type: ignore[misc]
                seen = len(results)
                await until(lambda seen=seen: len(results) > seen + 60)  # type: ignore[misc]
            stop.set()
            await calls
        await asyncio.gather(*client.closing)
        await client.channel.close()

    assert set(results) == {grpc.StatusCode.OK}


async def test_the_watcher_calls_back_once_per_good_change(mesh: Mesh, tmp_path: Path) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    seen: list[Material] = []
    async with CertificateWatcher(files, seen.append, interval=QUICK):
        files.key.write_bytes(b"bad")
        await until(lambda: files.stats().failed_reloads == 1)
        mesh.rotate("carbon")
        shutil.copy(mesh.tls("carbon").cert, files.cert)
        shutil.copy(mesh.tls("carbon").key, files.key)
        await until(lambda: len(seen) == 1)
        await asyncio.sleep(0.1)

    assert [material.cert for material in seen] == [files.cert.read_bytes()]


async def test_the_watcher_survives_a_callback_that_fails(mesh: Mesh) -> None:
    seen: list[Material] = []

    async def swap(material: Material) -> None:
        seen.append(material)
        raise ValueError("no")

    async with CertificateWatcher(files_of(mesh, "carbon"), swap, interval=QUICK):
        for count in (1, 2):
            mesh.rotate("carbon")
            await until(lambda count=count: len(seen) == count)  # type: ignore[misc]


async def test_the_watcher_stops_with_its_block(mesh: Mesh) -> None:
    seen: list[Material] = []
    async with CertificateWatcher(files_of(mesh, "carbon"), seen.append, interval=QUICK):
        pass
    mesh.rotate("carbon")
    await asyncio.sleep(0.1)

    assert seen == []


def test_a_server_without_usable_files_does_not_start(mesh: Mesh, tmp_path: Path) -> None:
    files = loose_copy(mesh, "carbon", tmp_path / "copy")
    os.truncate(files.key, 0)

    with pytest.raises(ConfigurationError, match="PEM private key"):
        server_credentials(files)
