"""The proof that whoever enrolls a publisher key has its private half, for one tenant and one person."""

from __future__ import annotations

import base64
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_HEADING: Final = "aegis-publisher-key/v1"


def proof_text(tenant: str, subject: str, public_key: bytes) -> bytes:
    """Return what the key has to sign, so that nobody can enroll it elsewhere or for somebody else.

    Args:
        tenant: Tenant of the caller, as `GetPublisher` says.
        subject: The caller, as `GetPublisher` says.
        public_key: The key's 32 raw bytes.
    """
    return "\n".join((_HEADING, tenant, subject, base64.b64encode(public_key).decode())).encode()


def is_proved(tenant: str, subject: str, public_key: bytes, proof: bytes) -> bool:
    """Tell whether *proof*, 64 raw bytes, is the key's signature over `proof_text`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(proof, proof_text(tenant, subject, public_key))
    except (InvalidSignature, ValueError):
        return False
    return True
