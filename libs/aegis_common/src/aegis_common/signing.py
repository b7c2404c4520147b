"""Ed25519 keys from files: one signs, a set of others is trusted."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aegis_common.errors import ConfigurationError

_KEY_ID_LENGTH: Final = 16


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of *key*: the first 16 hex digits of the SHA-256 of its 32 raw bytes."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:_KEY_ID_LENGTH]


class Signer:
    """Signs with one Ed25519 private key.

    Attributes:
        key_id: Id of the key, as `key_id()` of its public half.
        public_key: The public half.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key: Final = key.public_key()
        self.key_id: Final = key_id(self.public_key)

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Read the private key from the PEM file *path*.

        Raises:
            ConfigurationError: The file cannot be read, or holds no unencrypted Ed25519 private key.
        """
        try:
            key = serialization.load_pem_private_key(_read(path), password=None)
        except (ValueError, TypeError) as error:
            raise _not_a_key(path, "private") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path, "private")
        return cls(key)

    def sign(self, data: bytes) -> str:
        """Return the signature over *data*, in base64."""
        return base64.b64encode(self._key.sign(data)).decode()


class TrustedKeys:
    """The public keys whose signatures count.

    Files are read again at each look-up, so a key that is added or removed counts at once.

    Args:
        keys: Keys that are trusted whatever the files say.
        paths: PEM files, or folders of `*.pem` files, of Ed25519 public keys.
    """

    def __init__(self, keys: Iterable[Ed25519PublicKey] = (), *, paths: Iterable[Path] = ()) -> None:
        self._fixed = {key_id(key): key for key in keys}
        self._paths = tuple(paths)

    @classmethod
    def load(cls, *paths: Path) -> TrustedKeys:
        """Trust the keys in *paths*.

        Raises:
            ConfigurationError: A path cannot be read, a file holds no key, or there is no key at all.
        """
        trusted = cls(paths=paths)
        found = [load_public_key(file) for path in paths for file in _files(path)]
        if not found:
            raise ConfigurationError(
                f"no public key (*.pem) in {', '.join(map(str, paths)) or 'an empty list of paths'}"
            )
        return trusted

    def including(self, *keys: Ed25519PublicKey) -> TrustedKeys:
        """Return a set that trusts *keys* as well."""
        return TrustedKeys([*self._fixed.values(), *keys], paths=self._paths)

    def keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Return the keys of this moment by id; a file that is broken now counts as absent."""
        found = dict(self._fixed)
        for file in (file for path in self._paths for file in _files(path)):
            with suppress(ConfigurationError):
                key = load_public_key(file)
                found[key_id(key)] = key
        return found

    def verify(self, signer_key_id: str, signature: str, data: bytes) -> bool:
        """Tell whether *signature* (base64) over *data* was made by the trusted key of that id."""
        key = self.keys().get(signer_key_id)
        return key is not None and verified(key, signature, data)


def verified(key: Ed25519PublicKey, signature: str, data: bytes) -> bool:
    """Tell whether *signature* (base64) over *data* was made with *key*."""
    try:
        key.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read one Ed25519 public key from the PEM file *path*.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    try:
        key = serialization.load_pem_public_key(_read(path))
    except ValueError as error:
        raise _not_a_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path, "public")
    return key


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.pem")) if path.is_dir() else [path]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"key file {path}: {error.strerror}", path=str(path)) from error


def _not_a_key(path: Path, half: str) -> ConfigurationError:
    return ConfigurationError(
        f"key file {path} holds no Ed25519 {half} key in PEM; make one with "
        "`openssl genpkey -algorithm ed25519`",
        path=str(path),
    )
