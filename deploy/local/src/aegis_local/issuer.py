"""The development token issuer: one ES256 key, a key-set file, and tokens on demand. Never for production."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from aegis_common.auth.principal import DEFAULT_TENANT, checked_tenant
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError
from aegis_common.files import read_file, write_atomic
from aegis_common.pki import key_id, private_key_pem

ISSUER: Final = "https://dev-issuer.aegis.local"
AUDIENCE: Final = "aegis"
ROLES: Final = ("viewer", "operator", "trainer", "admin")
DEFAULT_TTL: Final = timedelta(hours=1)
MAX_TTL: Final = timedelta(days=1)
_DURATION: Final = re.compile(r"(-?\d+)(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class DevIssuer:
    """Signs tokens with the key in a folder.

    Attributes:
        folder: Holds `key.pem` and `jwks.json`.
    """

    folder: Path
    _key: ec.EllipticCurvePrivateKey
    _clock: Clock = utc_now

    def __repr__(self) -> str:
        return f"DevIssuer({self.folder})"

    @classmethod
    def create(cls, folder: Path, *, clock: Clock = utc_now) -> DevIssuer:
        """Open the issuer in *folder*; make its key and key set when there are none."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "key.pem").exists():
            write_atomic(folder / "key.pem", private_key_pem(ec.generate_private_key(ec.SECP256R1())))
        issuer = cls.load(folder, clock=clock)
        write_atomic(issuer.jwks, json.dumps({"keys": [issuer.public_jwk()]}).encode(), mode=0o644)
        return issuer

    @classmethod
    def load(cls, folder: Path, *, clock: Clock = utc_now) -> DevIssuer:
        """Open the issuer in *folder*.

        Raises:
            ConfigurationError: There is no key, or it is no EC key.
        """
        path = folder / "key.pem"
        if not path.exists():
            raise ConfigurationError(
                f"there is no token issuer in {folder}; start a stack first with `aegis up`", path=str(path)
            )
        try:
            key = serialization.load_pem_private_key(read_file(path, "issuer key"), None)
        except ValueError as error:
            raise ConfigurationError(f"{path} is no PEM private key; remove it", path=str(path)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{path} is no EC key; remove it", path=str(path))
        return cls(folder, key, clock)

    @property
    def jwks(self) -> Path:
        return self.folder / "jwks.json"

    def mint(
        self,
        *,
        roles: Sequence[str],
        subject: str,
        tenant: str = DEFAULT_TENANT,
        ttl: timedelta = DEFAULT_TTL,
    ) -> str:
        """Return a signed token.

        Args:
            roles: Any of `ROLES`.
            subject: Whom it speaks for.
            tenant: Lower-case letters, digits and `-`.
            ttl: Validity from now, at most `MAX_TTL`; a negative one gives an expired token, for tests.

        Raises:
            ConfigurationError: A role is unknown, the subject is empty, or the time is too long.
        """
        unknown = [role for role in roles if role not in ROLES]
        if unknown or not roles:
            wrong = unknown[0] if unknown else ""
            raise ConfigurationError(f"role {wrong!r} is not one of {', '.join(ROLES)}", role=wrong)
        if not subject:
            raise ConfigurationError("the subject is empty")
        if ttl > MAX_TTL:
            raise ConfigurationError(
                f"a token may live {MAX_TTL.days} d at most, not {ttl.total_seconds() / 86400:.3g} d",
                ttl=str(ttl),
            )
        now = self._clock()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": min(now, now + ttl),
            "exp": now + ttl,
            "tenant": checked_tenant(tenant),
            "roles": list(roles),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id()})

    def _key_id(self) -> str:
        return key_id(self._key.public_key())

    def public_jwk(self) -> dict[str, object]:
        """Return the public key as an entry of a key set."""
        jwk = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {**jwk, "kid": self._key_id(), "use": "sig", "alg": "ES256"}


def parse_duration(text: str) -> timedelta:
    """Return the duration of `90s`, `15m`, `1h` or `1d`.

    Raises:
        ConfigurationError: It is not of that form.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"{text!r} is no duration; write for example 90s, 15m, 1h or 1d", value=text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
