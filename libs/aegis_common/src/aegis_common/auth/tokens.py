"""Bearer tokens of people, verified by each service itself; results are cached until the token ends."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import jwt

from aegis_common.auth.errors import (
    TokenExpired,
    TokenInvalid,
    TokensNotAccepted,
    TokenWrongAudience,
    TokenWrongIssuer,
)
from aegis_common.auth.identities import USER_ROLES
from aegis_common.auth.keys import ALGORITHMS, KeySource
from aegis_common.auth.principal import DEFAULT_TENANT, checked_tenant
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError, Unauthenticated
from aegis_common.settings import TokenSettings

__all__ = ["KeySource", "TokenVerifier", "VerifiedUser"]

MAX_TOKEN_BYTES: Final = 16 << 10
CLOCK_SKEW: Final = timedelta(seconds=30)
MAX_CACHED: Final = 4096

_MAX_SUBJECT: Final = 256
_REQUIRED: Final = ["exp", "sub", "iss", "aud"]


@dataclass(frozen=True, slots=True)
class VerifiedUser:
    """Who a good token speaks for.

    Attributes:
        subject: `sub`: 1 to 256 printable characters.
        tenant: The tenant claim.
        roles: Those of our roles that the token lists; an issuer's other roles are left out.
        expires_at: End of the token, UTC.
    """

    subject: str
    tenant: str
    roles: frozenset[str]
    expires_at: datetime


class TokenVerifier:
    """Verifies tokens of one issuer; use as `async with`, which starts and stops its key source.

    Args:
        issuer: Required `iss`. If empty, no token is accepted.
        audience: Required in `aud`.
        keys: The issuer's keys; needed with an issuer.
        roles_claim: Claim that lists roles: its name, or a dotted path.
        tenant_claim: Claim that holds the tenant; required in each token. If empty, everybody is of tenant
            `default`.
        algorithms: Accepted signature algorithms, a subset of `ALGORITHMS`.
        clock: The present moment.

    Raises:
        ConfigurationError: There is an issuer without keys, or an algorithm that is not accepted.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: KeySource | None,
        *,
        roles_claim: str = "roles",
        tenant_claim: str = "tenant",
        algorithms: Collection[str] = ALGORITHMS,
        clock: Clock = utc_now,
    ) -> None:
        if issuer and keys is None:
            raise ConfigurationError(f"issuer {issuer} has no key set; set the path or URL of one")
        if unknown := sorted(set(algorithms) - ALGORITHMS):
            raise ConfigurationError(f"token algorithm {', '.join(unknown)} is not accepted")
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._roles_claim = roles_claim
        self._tenant_claim = tenant_claim
        self._algorithms = sorted(algorithms)
        self._clock = clock
        self._cache: OrderedDict[bytes, VerifiedUser] = OrderedDict()
        self._cache_version = -1

    @classmethod
    def of(cls, settings: TokenSettings, issuer: str) -> Self:
        """Return a verifier for a service's settings; an empty *issuer* accepts no token."""
        if not issuer:
            return cls("", settings.audience, None)
        keys = KeySource(
            settings.jwks,
            issuer=issuer,
            refresh=settings.refresh,
            max_stale=settings.max_stale,
            bundle=settings.jwks_bundle,
        )
        return cls(
            issuer,
            settings.audience,
            keys,
            roles_claim=settings.roles_claim,
            tenant_claim=settings.tenant_claim,
        )

    async def __aenter__(self) -> Self:
        if self._keys is not None:
            await self._keys.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._keys is not None:
            await self._keys.__aexit__(*exception)

    @property
    def keys(self) -> KeySource | None:
        return self._keys

    async def verify(self, token: str) -> VerifiedUser:
        """Return the user of *token*. Waits only when the token names a key that is not known yet.

        Raises:
            TokensNotAccepted: No issuer is configured.
            TokenExpired: It has ended, more than `CLOCK_SKEW` ago.
            TokenWrongIssuer: Another issuer made it.
            TokenWrongAudience: It is for another system.
            TokenUnknownKey: The issuer does not publish the key that signed it.
            TokenInvalid: Anything else is wrong with it.
            TokenKeysUnavailable: The issuer's keys are not there, or too old.
        """
        if self._keys is None:
            raise TokensNotAccepted(
                "this service accepts no tokens; configure an issuer, or use a certificate"
            )
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise TokenInvalid(f"token is not at most {MAX_TOKEN_BYTES} ASCII characters")
        digest = hashlib.sha256(token.encode()).digest()
        user = self._cached(digest, self._keys)
        if user is None:
            version = self._keys.version
            user = await self._verify(token, self._keys)
            if version == self._keys.version:
                self._remember(digest, user)
        elif self._clock() > user.expires_at + CLOCK_SKEW:
            del self._cache[digest]
            raise _expired(user.expires_at)
        return user

    def _cached(self, digest: bytes, keys: KeySource) -> VerifiedUser | None:
        if not keys.usable:
            return None
        if self._cache_version != keys.version:
            self._cache.clear()
            self._cache_version = keys.version
        user = self._cache.get(digest)
        if user is not None:
            self._cache.move_to_end(digest)
        return user

    def _remember(self, digest: bytes, user: VerifiedUser) -> None:
        self._cache[digest] = user
        while len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)

    async def _verify(self, token: str, keys: KeySource) -> VerifiedUser:
        claims = self._decode(token, await keys.find(self._key_id(token)))
        expires_at = self._checked_times(claims)
        subject = claims["sub"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= _MAX_SUBJECT or not subject.isprintable():
            raise TokenInvalid(f"token's sub must be 1 to {_MAX_SUBJECT} printable characters")
        return VerifiedUser(subject, self._tenant(claims), self._roles(claims), expires_at)

    def _key_id(self, token: str) -> str | None:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenInvalid(f"token cannot be read: {error}") from error
        if header.get("alg") not in self._algorithms:
            raise TokenInvalid(f"token must be signed with {' or '.join(self._algorithms)}")
        key_id = header.get("kid")
        return key_id if isinstance(key_id, str) else None

    def _decode(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                # Times are checked below, with our own clock.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidIssuerError as error:
            raise TokenWrongIssuer(f"token is not from issuer {self._issuer}", issuer=self._issuer) from error
        except jwt.InvalidAudienceError as error:
            raise TokenWrongAudience(
                f"token is not for audience {self._audience}", audience=self._audience
            ) from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise TokenInvalid(f"token is not valid: {error}") from error

    def _checked_times(self, claims: Mapping[str, Any]) -> datetime:
        now = self._clock()
        expires_at = _moment(claims, "exp")
        if now > expires_at + CLOCK_SKEW:
            raise _expired(expires_at)
        for name in ("nbf", "iat"):
            if name in claims and now + CLOCK_SKEW < _moment(claims, name):
                raise TokenInvalid(f"token's {name} is in the future; check the clocks")
        return expires_at

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        if not self._tenant_claim:
            return DEFAULT_TENANT
        try:
            return checked_tenant(_claim(claims, self._tenant_claim))
        except Unauthenticated as error:
            raise TokenInvalid(f"token's claim {self._tenant_claim}: {error.message}") from error

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[str]:
        roles = _claim(claims, self._roles_claim)
        if roles is None:
            return frozenset()
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise TokenInvalid(f"token's claim {self._roles_claim} must be a list of names")
        return USER_ROLES.intersection(roles)


def _expired(expires_at: datetime) -> TokenExpired:
    text = expires_at.isoformat(timespec="seconds")
    return TokenExpired(f"token has expired at {text}; get a new one", expired_at=text)


def _moment(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            pass
    raise TokenInvalid(f"token's {name} is no moment in seconds since 1970")


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    if path in claims:
        return claims[path]  # a name with dots in it, as in https://example.org/roles
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
