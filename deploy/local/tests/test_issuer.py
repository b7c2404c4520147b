"""The development token issuer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from aegis_common.auth.errors import TokenExpired
from aegis_common.auth.tokens import TokenVerifier, VerifiedUser
from aegis_common.errors import ConfigurationError
from aegis_common.settings import TokenSettings
from aegis_local.issuer import AUDIENCE, ISSUER, DevIssuer, parse_duration


@pytest.fixture
def issuer(tmp_path: Path) -> DevIssuer:
    return DevIssuer.create(tmp_path / "issuer")


async def verify(issuer: DevIssuer, token: str) -> VerifiedUser:
    settings = TokenSettings(issuer=ISSUER, audience=AUDIENCE, jwks=str(issuer.jwks))
    async with TokenVerifier.of(settings, ISSUER) as verifier:
        return await verifier.verify(token)


async def test_a_service_accepts_a_minted_token(issuer: DevIssuer) -> None:
    user = await verify(issuer, issuer.mint(roles=["operator", "viewer"], subject="alice", tenant="acme"))

    assert (user.subject, user.tenant, set(user.roles)) == ("alice", "acme", {"operator", "viewer"})


async def test_a_token_of_the_past_is_expired(issuer: DevIssuer) -> None:
    token = issuer.mint(roles=["operator"], subject="alice", ttl=timedelta(minutes=-5))

    with pytest.raises(TokenExpired):
        await verify(issuer, token)


def test_the_key_survives_a_restart(issuer: DevIssuer) -> None:
    before = issuer.jwks.read_text()

    assert DevIssuer.create(issuer.folder).jwks.read_text() == before


def test_an_unknown_role_is_refused_by_name(issuer: DevIssuer) -> None:
    with pytest.raises(ConfigurationError, match="'root' is not one of viewer"):
        issuer.mint(roles=["root"], subject="alice")


def test_a_folder_without_key_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="aegis up"):
        DevIssuer.load(tmp_path)


def test_the_private_key_is_private(issuer: DevIssuer) -> None:
    assert (issuer.folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert '"d"' not in issuer.jwks.read_text()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("1d", 86400), ("-5m", -300)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1w", "1.5h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no duration"):
        parse_duration(text)
