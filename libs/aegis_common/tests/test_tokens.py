"""Bearer tokens and the keys that sign them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from aegis_common.auth.errors import (
    TokenExpired,
    TokenInvalid,
    TokenKeysUnavailable,
    TokensNotAccepted,
    TokenUnknownKey,
    TokenWrongAudience,
    TokenWrongIssuer,
)
from aegis_common.auth.keys import MAX_DOCUMENT_BYTES, KeySource
from aegis_common.auth.tokens import MAX_TOKEN_BYTES, TokenVerifier, VerifiedUser
from aegis_common.clock import utc_now
from aegis_common.errors import ConfigurationError, ErrorKind
from aegis_common.settings import TokenSettings
from aegis_common.testing.pki import AUDIENCE, ISSUER, Mesh
from aegis_common.testing.waiting import until

LONG = timedelta(hours=1)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@dataclass
class Time:
    """A clock that the test moves."""

    offset: timedelta = timedelta(0)

    def utc(self) -> datetime:
        return utc_now() + self.offset

    def monotonic(self) -> float:
        return 1000 + self.offset.total_seconds()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def verifier(mesh: Mesh, time: Time) -> AsyncIterator[TokenVerifier]:
    keys = KeySource(str(mesh.jwks), refresh=LONG, monotonic=time.monotonic)
    async with TokenVerifier(ISSUER, AUDIENCE, keys, clock=time.utc) as verifier:
        yield verifier


# Tokens


async def test_a_good_token_names_its_user(mesh: Mesh, verifier: TokenVerifier) -> None:
    user = await verifier.verify(mesh.token("alice", ["operator", "trainer"], "acme"))

    assert user == VerifiedUser("alice", "acme", frozenset({"operator", "trainer"}), user.expires_at)
    assert timedelta(minutes=9) < user.expires_at - utc_now() <= timedelta(minutes=10)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"ttl": timedelta(seconds=-31)}, TokenExpired),
        ({"iss": "https://other.test"}, TokenWrongIssuer),
        ({"iss": None}, TokenInvalid),
        ({"aud": "other"}, TokenWrongAudience),
        ({"aud": ["other", "else"]}, TokenWrongAudience),
        ({"aud": None}, TokenInvalid),
        ({"exp": None}, TokenInvalid),
        ({"exp": "soon"}, TokenInvalid),
        ({"exp": True}, TokenInvalid),
        ({"exp": 1e300}, TokenInvalid),
        ({"sub": None}, TokenInvalid),
        ({"sub": 7}, TokenInvalid),
        ({"sub": "a\nb"}, TokenInvalid),
        ({"sub": "a" * 257}, TokenInvalid),
        ({"tenant": "Acme/.."}, TokenInvalid),
        ({"tenant": 5}, TokenInvalid),
        ({"tenant": None}, TokenInvalid),
        ({"roles": [1]}, TokenInvalid),
        ({"nbf": datetime(2100, 1, 1, tzinfo=UTC)}, TokenInvalid),
        ({"iat": datetime(2100, 1, 1, tzinfo=UTC)}, TokenInvalid),
    ],
)
async def test_a_wrong_token_is_refused_for_its_reason(
    mesh: Mesh, verifier: TokenVerifier, changes: dict[str, Any], error: type[Exception]
) -> None:
    token = mesh.token(**changes)
    for _ in range(2):  # the second time might come from the cache
        with pytest.raises(error) as caught:
            await verifier.verify(token)
        assert type(caught.value) is error


@pytest.mark.parametrize(
    "changes",
    [
        {"ttl": timedelta(seconds=-20)},
        {"aud": ["other", AUDIENCE]},
        {"iat": None},
        {"nbf": utc_now() + timedelta(seconds=20)},
    ],
)
async def test_small_clock_differences_and_more_audiences_are_fine(
    mesh: Mesh, verifier: TokenVerifier, changes: dict[str, Any]
) -> None:
    assert (await verifier.verify(mesh.token(**changes))).subject == "alice"


@pytest.mark.parametrize(
    ("groups", "expected"), [(None, frozenset()), ([], frozenset()), (["admin"], {"admin"})]
)
async def test_roles_may_be_absent(mesh: Mesh, groups: object, expected: frozenset[str]) -> None:
    keys = KeySource(str(mesh.jwks))
    async with TokenVerifier(ISSUER, AUDIENCE, keys, roles_claim="groups") as verifier:
        assert (await verifier.verify(mesh.token(groups=groups))).roles == expected


@pytest.mark.parametrize("groups", ["admin", {"admin": True}, [["admin"]], 1])
async def test_roles_that_are_no_list_of_names_are_refused(mesh: Mesh, groups: object) -> None:
    keys = KeySource(str(mesh.jwks))
    async with TokenVerifier(ISSUER, AUDIENCE, keys, roles_claim="groups") as verifier:
        with pytest.raises(TokenInvalid, match="list of names"):
            await verifier.verify(mesh.token(groups=groups))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def header_of(token: str) -> dict[str, Any]:
    return jwt.get_unverified_header(token)


def resigned(token: str, header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    signed = f"{b64(json.dumps(header).encode())}.{token.split('.')[1]}"
    return f"{signed}.{b64(sign(signed.encode()))}"


async def test_a_token_that_nobody_signed_is_refused(mesh: Mesh, verifier: TokenVerifier) -> None:
    token = mesh.token()
    for name in ("none", "None", "NONE", ""):
        with pytest.raises(TokenInvalid, match="signed with"):
            await verifier.verify(resigned(token, header_of(token) | {"alg": name}, lambda _: b""))
    with pytest.raises(TokenInvalid):
        await verifier.verify(token.rpartition(".")[0] + ".")


async def test_a_public_key_is_no_shared_secret(mesh: Mesh, verifier: TokenVerifier) -> None:
    token = mesh.token()
    jwk = json.loads(mesh.jwks.read_text())["keys"][0]
    public = jwt.PyJWK(jwk).key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def sign(data: bytes) -> bytes:
        return hmac.digest(public, data, hashlib.sha256)

    for kid in (header_of(token)["kid"], None):
        header = {"alg": "HS256", "typ": "JWT"} | ({"kid": kid} if kid else {})
        with pytest.raises(TokenInvalid, match="signed with"):
            await verifier.verify(resigned(token, header, sign))


async def test_a_key_is_used_with_its_own_algorithm_only(mesh: Mesh, verifier: TokenVerifier) -> None:
    token = mesh.token()
    with pytest.raises(TokenInvalid):
        await verifier.verify(resigned(token, header_of(token) | {"alg": "EdDSA"}, lambda _: b"x" * 64))


async def test_a_changed_token_is_refused_although_the_true_one_is_cached(
    mesh: Mesh, verifier: TokenVerifier
) -> None:
    token = mesh.token()
    await verifier.verify(token)
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = b64(json.dumps(claims | {"roles": ["admin"]}).encode())

    with pytest.raises(TokenInvalid):
        await verifier.verify(f"{head}.{forged}.{signature}")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\x00",
        "é" * 10,
        "\ud800",
        "a" * (MAX_TOKEN_BYTES + 1),
        "e30.e30.e30",
        base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg":' + b"[" * 9000).decode() + ".e30.e30",
    ],
)
async def test_text_that_is_no_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenInvalid):
        await verifier.verify(token)


async def test_a_token_from_an_unknown_critical_extension_is_refused(
    mesh: Mesh, verifier: TokenVerifier
) -> None:
    token = mesh.token()
    header = header_of(token) | {"crit": ["b65"], "b65": True}
    signed = jwt.encode({"sub": "a"}, mesh._token_key, algorithm="ES256", headers=header | {"alg": "ES256"})

    with pytest.raises(TokenInvalid):
        await verifier.verify(signed)


async def test_a_cached_token_ends_with_its_time(mesh: Mesh, verifier: TokenVerifier, time: Time) -> None:
    token = mesh.token(ttl=timedelta(minutes=1))
    first = await verifier.verify(token)
    assert await verifier.verify(token) is first
    time.offset = timedelta(minutes=2)

    for _ in range(2):
        with pytest.raises(TokenExpired):
            await verifier.verify(token)


async def test_the_cache_is_bounded(
    mesh: Mesh, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_common.auth.tokens.MAX_CACHED", 3)
    tokens = [mesh.token(f"user-{number}") for number in range(5)]
    users = [await verifier.verify(token) for token in tokens]

    assert len(verifier._cache) == 3
    assert await verifier.verify(tokens[4]) is users[4]
    assert await verifier.verify(tokens[0]) is not users[0]


async def test_claims_may_stand_deep_or_have_dots_in_their_names(mesh: Mesh) -> None:
    deep: dict[str, Any] = {
        "realm_access": {"roles": ["admin", "offline_access"]},
        "https://a.test/tenant": "acme",
    }
    async with TokenVerifier(
        ISSUER,
        AUDIENCE,
        KeySource(str(mesh.jwks)),
        roles_claim="realm_access.roles",
        tenant_claim="https://a.test/tenant",
    ) as verifier:
        user = await verifier.verify(mesh.token(**deep))

    assert (user.tenant, user.roles) == ("acme", frozenset({"admin"}))


async def test_without_a_tenant_claim_everybody_is_of_the_default_tenant(mesh: Mesh) -> None:
    keys = KeySource(str(mesh.jwks))
    async with TokenVerifier(ISSUER, AUDIENCE, keys, tenant_claim="") as verifier:
        assert (await verifier.verify(mesh.token(tenant="acme"))).tenant == "default"


async def test_without_an_issuer_no_token_is_accepted(mesh: Mesh) -> None:
    async with TokenVerifier.of(TokenSettings(), "") as verifier:
        with pytest.raises(TokensNotAccepted):
            await verifier.verify(mesh.token())


def test_an_issuer_without_keys_or_a_shared_secret_algorithm_is_refused(mesh: Mesh) -> None:
    with pytest.raises(ConfigurationError, match="key set"):
        TokenVerifier(ISSUER, AUDIENCE, None)
    with pytest.raises(ConfigurationError, match="HS256"):
        TokenVerifier(ISSUER, AUDIENCE, KeySource(str(mesh.jwks)), algorithms=["ES256", "HS256"])


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_each_accepted_algorithm_works(tmp_path: Path, algorithm: str) -> None:
    key: Any
    if algorithm == "ES256":
        key = ec.generate_private_key(ec.SECP256R1())
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif algorithm == "RS256":
        key = rsa.generate_private_key(65537, 2048)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk | {"kid": "k"}]}))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "exp": utc_now() + LONG, "tenant": "default"}
    async with TokenVerifier(ISSUER, AUDIENCE, KeySource(str(path))) as verifier:
        for headers in ({"kid": "k"}, {}):
            token = jwt.encode(claims, key, algorithm=algorithm, headers=headers)
            assert (await verifier.verify(token)).subject == "a"


# Keys in a file


async def test_a_new_key_is_found_at_once_and_the_old_one_refused_when_it_is_gone(
    mesh: Mesh, verifier: TokenVerifier, time: Time
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


async def test_unknown_keys_cause_few_refreshes(mesh: Mesh, tmp_path: Path, time: Time) -> None:
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


async def test_stale_keys_serve_for_a_while_and_then_no_more(mesh: Mesh, time: Time) -> None:
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
