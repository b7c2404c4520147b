"""The proof that whoever enrolls a publisher key has its private half, for one tenant and one person."""

from __future__ import annotations

import base64
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_HEADING: Final = "aegis-publisher-key/v1"
_PRIME: Final = 2**255 - 19
_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})
"""The y of all eight points of the curve whose order divides 8 (RFC 8032; curve25519-dalek EIGHT_TORSION)."""


def proof_text(tenant: str, subject: str, public_key: bytes) -> bytes:
    """Return what the key has to sign, so that nobody can enroll it elsewhere or for somebody else.

    Args:
        tenant: Tenant of the caller, as `GetPublisher` says.
        subject: The caller, as `GetPublisher` says.
        public_key: The key's 32 raw bytes.
    """
    return "\n".join((_HEADING, tenant, subject, base64.b64encode(public_key).decode())).encode()


def is_weak(public_key: bytes) -> bool:
    """Tell whether signatures by *public_key*, 32 raw bytes, prove nothing.

    A point of small order has no private half: a signature that suits it can be written down, and suits most
    messages. The sign of x and the ways to write y that no library makes do not matter.
    """
    y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)
    return y % _PRIME in _SMALL_ORDER


def is_proved(tenant: str, subject: str, public_key: bytes, proof: bytes) -> bool:
    """Tell whether *proof*, 64 raw bytes, is the key's signature over `proof_text`."""
    if is_weak(public_key):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(proof, proof_text(tenant, subject, public_key))
    except (InvalidSignature, ValueError):
        return False
    return True
