"""The private half of a publisher key: where it lies, and what it signs."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aegis_client.errors import UsageError
from aegis_client.profiles import Profile
from aegis_client.publisher_forms import Publisher
from aegis_common.errors import ConfigurationError
from aegis_common.pki import new_ed25519
from aegis_common.publisher_proof import proof_text
from aegis_common.signing import Signer


def key_place(profile: Profile, key: Path | str | None = None) -> Path:
    """Return *key*, or where the profile's key lies: below the folder of its file, under its name.

    Raises:
        UsageError: There is no *key*, and the profile comes from no file.
    """
    if key is not None:
        return Path(key).expanduser()
    if profile.source is None:
        raise UsageError(
            "name the file of the publisher key: this profile comes from no file, so it has none"
        )
    return profile.source.parent / "publisher-keys" / f"{quote(profile.name, safe='')}.key"


def load_signer(place: Path) -> Signer:
    """Return what signs with the key at *place*.

    Raises:
        UsageError: There is none, or it is no Ed25519 private key in PEM.
    """
    if not place.exists():
        raise UsageError(
            f"there is no publisher key at {place}; make and enroll one: aegis models keys enroll"
        )
    try:
        return Signer.load(place)
    except ConfigurationError as error:
        raise UsageError(error.message) from error


def load_or_make(place: Path) -> Signer:
    """Return what signs with the key at *place*; where there is none, make it, readable by its owner only.

    Raises:
        UsageError: It cannot be written or read, or is no Ed25519 private key in PEM.
    """
    if not place.exists():
        try:
            new_ed25519(place)
        except (ConfigurationError, OSError) as error:
            raise UsageError(f"the publisher key {place} cannot be made: {error}") from error
    return load_signer(place)


def raw_public_key(signer: Signer) -> bytes:
    """Return the 32 bytes of the public half."""
    return signer.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def proof(signer: Signer, publisher: Publisher) -> bytes:
    """Return the signature which proves that *publisher* has the private half."""
    text = proof_text(publisher.tenant, publisher.subject, raw_public_key(signer))
    return base64.b64decode(signer.sign(text))
