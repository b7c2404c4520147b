"""Bearer tokens: which are accepted, and why the others are not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
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
    TokensNotAccepted,
    TokenWrongAudience,
    TokenWrongIssuer,
)
from aegis_common.auth.keys import KeySource
from aegis_common.auth.tokens import MAX_TOKEN_BYTES, TokenVerifier, VerifiedUser
from aegis_common.clock import utc_now
from aegis_common.errors import ConfigurationError
from aegis_common.settings import TokenSettings
from aegis_common.testing.clock import MovedClock
from aegis_common.testing.pki import AUDIENCE, ISSUER, Mesh


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


async def test_a_cached_token_ends_with_its_time(
    mesh: Mesh, verifier: TokenVerifier, time: MovedClock
) -> None:
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
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "a",
        "exp": utc_now() + timedelta(hours=1),
        "tenant": "default",
    }
    async with TokenVerifier(ISSUER, AUDIENCE, KeySource(str(path))) as verifier:
        for headers in ({"kid": "k"}, {}):
            token = jwt.encode(claims, key, algorithm=algorithm, headers=headers)
            assert (await verifier.verify(token)).subject == "a"
