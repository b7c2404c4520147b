"""The keys that sign bearer tokens, from a file or a URL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aegis_common.auth.errors import (
    TokenKeysUnavailable,
    TokenUnknownKey,
)
from aegis_common.auth.keys import MAX_DOCUMENT_BYTES, KeySource
from aegis_common.auth.tokens import TokenVerifier
from aegis_common.errors import ConfigurationError, ErrorKind
from aegis_common.settings import TokenSettings
from aegis_common.testing.clock import MovedClock
from aegis_common.testing.pki import AUDIENCE, ISSUER, Mesh
from aegis_common.testing.waiting import until

LONG = timedelta(hours=1)


# Keys in a file


async def test_a_new_key_is_found_at_once_and_the_old_one_refused_when_it_is_gone(
    mesh: Mesh, verifier: TokenVerifier, time: MovedClock
) -> None:
    old = mesh.token("old")
    await verifier.verify(old)
    mesh.rotate_token_key(keep_old=True)
    time.offset = timedelta(seconds=10)
    assert (await verifier.verify(mesh.token("new"))).subject == "new"
    assert (await verifier.verify(old)).subject == "old"

    mesh.rotate_token_key()
    time.offset = timedelta(seconds=20)
    assert (await verifier.verify(mesh.token("newest"))).subject == "newest"
    with pytest.raises(TokenUnknownKey):
        await verifier.verify(old)


async def test_unknown_keys_cause_few_refreshes(mesh: Mesh, tmp_path: Path, time: MovedClock) -> None:
    other = Mesh(tmp_path / "other")
    async with issuer() as server:
        server.document = mesh.jwks.read_bytes()
        keys = KeySource(server.url, refresh=LONG, monotonic=time.monotonic)
        async with TokenVerifier(ISSUER, AUDIENCE, keys) as verifier:
            time.offset = timedelta(seconds=10)
            results = await asyncio.gather(
                *(verifier.verify(other.token(f"user-{n}")) for n in range(20)), return_exceptions=True
            )
            assert {type(result) for result in results} == {TokenUnknownKey}
            assert server.requests == 2


async def test_the_background_refresh_finds_a_removed_key(mesh: Mesh) -> None:
    old = mesh.token()
    keys = KeySource(str(mesh.jwks), refresh=timedelta(milliseconds=20))
    async with TokenVerifier(ISSUER, AUDIENCE, keys) as verifier:
        await verifier.verify(old)
        version = keys.version
        mesh.rotate_token_key()
        await until(lambda: keys.version > version)
        with pytest.raises(TokenUnknownKey):
            await verifier.verify(old)


async def test_stale_keys_serve_for_a_while_and_then_no_more(mesh: Mesh, time: MovedClock) -> None:
    keys = KeySource(
        str(mesh.jwks),
        refresh=timedelta(milliseconds=20),
        max_stale=timedelta(hours=2),
        monotonic=time.monotonic,
    )
    token = mesh.token(ttl=timedelta(hours=9))
    document = mesh.jwks.read_bytes()
    async with TokenVerifier(ISSUER, AUDIENCE, keys) as verifier:
        await verifier.verify(token)
        mesh.jwks.write_bytes(b"broken")
        await until(lambda: keys.stats().failed_refreshes >= 1)
        time.offset = timedelta(hours=1)
        assert (await verifier.verify(token)).subject == "alice"
        assert (await verifier.verify(mesh.token("bob"))).subject == "bob"

        time.offset = timedelta(hours=3)
        for refused in (token, mesh.token("carol")):
            with pytest.raises(TokenKeysUnavailable) as caught:
                await verifier.verify(refused)
            assert caught.value.kind is ErrorKind.UNAVAILABLE
            assert caught.value.retry_after is not None

        mesh.jwks.write_bytes(document)
        time.offset = timedelta(hours=4)
        await keys._try_refresh()
        assert (await verifier.verify(token)).subject == "alice"
        assert keys.stats().age_s == 0


SYMMETRIC = {"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"}


def ec_jwk(**changes: object) -> dict[str, object]:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return {**jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True), "kid": "a"} | changes


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [1, null, {}]}',
        json.dumps({"keys": [SYMMETRIC]}).encode(),
        json.dumps({"keys": [ec_jwk(use="enc")]}).encode(),
        json.dumps({"keys": [ec_jwk(alg="HS256")]}).encode(),
        json.dumps({"keys": [ec_jwk(x="AA")]}).encode(),
        json.dumps({"keys": [ec_jwk(), ec_jwk()]}).encode(),
        b" " * (MAX_DOCUMENT_BYTES + 1),
    ],
)
async def test_a_file_that_is_no_key_set_stops_the_start(tmp_path: Path, document: bytes) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(document)

    with pytest.raises(ConfigurationError, match=r"jwks\.json"):
        async with KeySource(str(path)):
            pass


async def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="absent"):
        async with KeySource(str(tmp_path / "absent")):
            pass


async def test_keys_for_other_purposes_are_left_out(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505
    weak_jwk = {**jwt.algorithms.RSAAlgorithm.to_jwk(weak, as_dict=True), "kid": "weak"}
    path = tmp_path / "jwks.json"
    path.write_text(
        json.dumps({"keys": [SYMMETRIC, ec_jwk(), ec_jwk(kid="b", use="enc"), {"kty": "new"}, weak_jwk]})
    )
    async with KeySource(str(path)) as keys:
        assert keys.stats().keys == 1
        assert (await keys.find("a")).algorithm_name == "ES256"


# Keys at a URL


@dataclass
class Issuer:
    """A small HTTP server that answers every request with one document."""

    url: str = ""
    document: bytes = b""
    status: str = "200 OK"
    headers: str = ""
    requests: int = 0
    paths: dict[str, bytes] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests += 1
        await self.gate.wait()
        body = self.paths.get(request.split()[1], self.document)
        length = f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        head = f"HTTP/1.1 {self.status}\r\n{self.headers}{length}"
        writer.write(head.encode() + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


@asynccontextmanager
async def issuer(context: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    found = Issuer()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    scheme, host = ("https", "localhost") if context else ("http", "127.0.0.1")
    found.url = f"{scheme}://{host}:{port}/jwks"
    async with server:
        yield found


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.test/jwks",
        "http://127.0.0.1.evil.test/jwks",
        "http://localhost@evil.test/jwks",
        "ftp://localhost/jwks",
        "file:///etc/passwd",
        "https:///jwks",
    ],
)
def test_keys_come_by_https_or_from_loopback(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        KeySource(url)


async def test_an_unreachable_issuer_does_not_stop_the_start(mesh: Mesh) -> None:
    async with issuer() as server:
        server.document = mesh.jwks.read_bytes()
        server.status = "503 Service Unavailable"
        keys = KeySource(server.url, unknown_key_pause=timedelta(0))
        async with TokenVerifier(ISSUER, AUDIENCE, keys) as verifier:
            with pytest.raises(TokenKeysUnavailable):
                await verifier.verify(mesh.token())
            server.status = "200 OK"
            assert (await verifier.verify(mesh.token())).subject == "alice"
            assert keys.stats().failed_refreshes >= 1


async def test_a_redirect_is_not_followed(mesh: Mesh) -> None:
    async with issuer() as target, issuer() as server:
        target.document = mesh.jwks.read_bytes()
        server.status, server.headers = "302 Found", f"location: {target.url}\r\n"
        async with KeySource(server.url) as keys:
            assert keys.stats().keys == 0
        assert target.requests == 0


async def test_a_huge_document_is_refused(mesh: Mesh) -> None:
    async with issuer() as server:
        server.document = mesh.jwks.read_bytes() + b" " * MAX_DOCUMENT_BYTES
        async with KeySource(server.url) as keys:
            assert (keys.stats().keys, keys.stats().failed_refreshes) == (0, 1)


async def test_https_is_verified_with_the_given_bundle(mesh: Mesh, tmp_path: Path) -> None:
    tls = mesh.tls("gateway")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.cert, tls.key)
    async with issuer(context) as server:
        server.document = mesh.jwks.read_bytes()
        async with KeySource(server.url, bundle=tls.bundle) as keys:
            assert keys.stats().keys == 1
        foreign = Mesh(tmp_path / "other").ca.bundle
        async with KeySource(server.url, bundle=foreign) as keys:
            assert keys.stats().keys == 0


async def test_an_issuer_alone_is_enough_when_it_publishes_its_configuration(mesh: Mesh) -> None:
    async with issuer() as server:
        name = server.url.removesuffix("/jwks")
        configuration = {"issuer": name, "jwks_uri": server.url}
        server.document = mesh.jwks.read_bytes()
        server.paths["/.well-known/openid-configuration"] = json.dumps(configuration).encode()
        async with TokenVerifier.of(TokenSettings(), name) as verifier:
            assert (await verifier.verify(mesh.token(iss=name))).subject == "alice"


@pytest.mark.parametrize(
    "changes",
    [{"issuer": "https://other.test"}, {"jwks_uri": "http://other.test/jwks"}, {"jwks_uri": None}],
)
async def test_a_configuration_that_points_elsewhere_is_refused(
    mesh: Mesh, changes: dict[str, object]
) -> None:
    async with issuer() as server:
        name = server.url.removesuffix("/jwks")
        configuration = {"issuer": name, "jwks_uri": server.url} | changes
        server.document = mesh.jwks.read_bytes()
        server.paths["/.well-known/openid-configuration"] = json.dumps(configuration).encode()
        async with KeySource("", issuer=name) as keys:
            assert (keys.stats().keys, keys.stats().failed_refreshes) == (0, 1)


async def test_a_slow_issuer_delays_nobody_whose_key_is_known(mesh: Mesh) -> None:
    async with issuer() as server:
        server.document = mesh.jwks.read_bytes()
        keys = KeySource(server.url, unknown_key_pause=timedelta(0))
        async with TokenVerifier(ISSUER, AUDIENCE, keys) as verifier:
            known = mesh.token("known")
            server.gate.clear()
            mesh.rotate_token_key(keep_old=True)
            server.document = mesh.jwks.read_bytes()
            waiting = asyncio.create_task(verifier.verify(mesh.token("unknown")))
            await until(lambda: server.requests == 2)

            assert (await verifier.verify(known)).subject == "known"
            assert not waiting.done()
            server.gate.set()
            assert (await waiting).subject == "unknown"


async def test_a_silent_issuer_is_given_up(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_common.auth.keys._TIMEOUT_S", 0.1)
    async with issuer() as server:
        server.gate.clear()
        async with KeySource(server.url) as keys:
            assert keys.stats().failed_refreshes == 1
        server.gate.set()


def test_a_key_source_without_a_location_is_refused() -> None:
    for name in ("", "no url"):
        with pytest.raises(ConfigurationError, match="https"):
            KeySource("", issuer=name)
