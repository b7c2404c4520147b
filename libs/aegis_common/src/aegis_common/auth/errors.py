"""Why a caller could not be identified."""

from __future__ import annotations

from aegis_common.errors import AegisError, ErrorKind, PermissionDenied, Unauthenticated


class TokenExpired(Unauthenticated):
    reason = "TOKEN_EXPIRED"


class TokenInvalid(Unauthenticated):
    reason = "TOKEN_INVALID"


class TokenWrongIssuer(Unauthenticated):
    reason = "TOKEN_WRONG_ISSUER"


class TokenWrongAudience(Unauthenticated):
    reason = "TOKEN_WRONG_AUDIENCE"


class TokenUnknownKey(Unauthenticated):
    reason = "TOKEN_UNKNOWN_KEY"


class TokensNotAccepted(Unauthenticated):
    reason = "TOKENS_NOT_ACCEPTED"


class TokenKeysUnavailable(AegisError):
    """The issuer's keys could not be fetched; the token may be good, so it is kept and tried again."""

    kind = ErrorKind.UNAVAILABLE
    reason = "TOKEN_KEYS_UNAVAILABLE"


class AmbiguousIdentity(Unauthenticated):
    """Two answers to "who calls?", for example two authorization headers."""

    reason = "AMBIGUOUS_IDENTITY"


class PeerNotNamed(Unauthenticated):
    """The direct peer's certificate names no SPIFFE id of this mesh."""

    reason = "PEER_NOT_NAMED"


class OnBehalfOfNotAllowed(PermissionDenied):
    reason = "ON_BEHALF_OF_NOT_ALLOWED"
