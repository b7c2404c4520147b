"""mTLS credentials that follow the files they come from; a torn or broken pair never replaces a good one."""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from aegis_common.background import Every
from aegis_common.errors import ConfigurationError
from aegis_common.files import read_file, write_atomic
from aegis_common.pki import server_dns, spiffe_id, spiffe_id_of
from aegis_common.settings import TlsSettings

__all__ = [
    "CertificateWatcher",
    "IdentityFiles",
    "Material",
    "ReloadStats",
    "channel_credentials",
    "server_context",
    "server_credentials",
    "server_dns",
    "spiffe_id",
]

_POLL: Final = timedelta(seconds=1)
_ATTEMPTS: Final = 20
_Contents = tuple[bytes, bytes, bytes]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """A certificate chain, its key and the trusted authorities, as read and found to fit together, PEM."""

    cert: bytes
    key: bytes
    bundle: bytes
    spiffe_id: str
    """Empty when the certificate has none, or several URI SANs."""
    not_after: datetime
    """End of the certificate, UTC."""
    bundle_not_after: datetime
    """First end of a trusted authority, UTC."""

    def __repr__(self) -> str:
        return f"Material({self.spiffe_id!r}, not_after={self.not_after.isoformat()})"


@dataclass(frozen=True, slots=True)
class ReloadStats:
    """What the metrics show of one set of files.

    Attributes:
        reloads: New contents taken into use since the start.
        failed_reloads: New contents refused since the start; each content counts once.
        not_after: Path to the moment (UTC) at which what is in use from it ends.
    """

    reloads: int
    failed_reloads: int
    not_after: Mapping[str, datetime]


class IdentityFiles:
    """The three files that prove who a process is. Thread-safe."""

    def __init__(self, cert: Path, key: Path, bundle: Path) -> None:
        self.cert = cert
        self.key = key
        self.bundle = bundle
        self._lock = threading.Lock()
        self._current: Material | None = None
        self._refused: _Contents | str | None = None
        self._reloads = 0
        self._failed = 0

    @classmethod
    def of(cls, settings: TlsSettings) -> Self:
        return cls(settings.cert, settings.key, settings.bundle)

    def read(self) -> Material:
        """Read and check the files as they are now.

        Raises:
            ConfigurationError: A file is missing or broken, or certificate and key do not match; names it.
        """
        return self._checked(self._snapshot())

    def latest(self) -> Material:
        """Return what to use now: the files' content if it is good, else the last good one.

        Cheap when nothing has changed: four reads and a comparison. Bad content is logged and counted once.

        Raises:
            ConfigurationError: Nothing good was ever read.
        """
        with self._lock:
            if self._current is None:
                self._current = self.read()
            else:
                self._follow(self._current)
            return self._current

    def stats(self) -> ReloadStats:
        with self._lock:
            ends = {}
            if self._current is not None:
                ends = {
                    str(self.cert): self._current.not_after,
                    str(self.bundle): self._current.bundle_not_after,
                }
            return ReloadStats(self._reloads, self._failed, ends)

    def _follow(self, current: Material) -> None:
        found: _Contents | str = ""
        try:
            found = self._snapshot()
            if found == (current.cert, current.key, current.bundle):
                self._refused = None
            elif found != self._refused:
                self._current = self._checked(found)
                self._refused = None
                self._reloads += 1
        except ConfigurationError as error:
            found = found or error.message
            if found != self._refused:
                self._refused = found
                self._failed += 1
                _log.error("certificate files cannot be used, the old ones stay: %s", error.message)

    def _snapshot(self) -> _Contents:
        """Read the pair as one: the certificate is the same before and after the key is read."""
        cert, key = read_file(self.cert, "certificate"), read_file(self.key, "private key")
        for _ in range(_ATTEMPTS):
            again = read_file(self.cert, "certificate")
            if again == cert:
                break
            cert, key = again, read_file(self.key, "private key")
        return cert, key, read_file(self.bundle, "CA bundle")

    def _checked(self, contents: _Contents) -> Material:
        cert, key, bundle = contents
        chain = _certificates(cert, self.cert)
        trusted = _certificates(bundle, self.bundle)
        try:
            private = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(
                f"{self.key} is no PEM private key without password", path=str(self.key)
            ) from error
        if private.public_key() != chain[0].public_key():
            raise ConfigurationError(
                f"{self.key} is not the key of {self.cert}; write both together",
                path=str(self.key),
                certificate=str(self.cert),
            )
        ends = min(authority.not_valid_after_utc for authority in trusted)
        return Material(cert, key, bundle, spiffe_id_of(cert), chain[0].not_valid_after_utc, ends)


class CertificateWatcher:
    """Calls back with new material when the files have changed for good; use as `async with`.

    Args:
        files: What to watch. Looking also keeps `files.stats()` fresh on a server that gets no handshakes.
        on_change: Called on the event loop, once per change that can be used.
        interval: Time between two looks.
    """

    def __init__(
        self,
        files: IdentityFiles,
        on_change: Callable[[Material], Awaitable[None] | None] | None = None,
        *,
        interval: timedelta = _POLL,
    ) -> None:
        self._files = files
        self._on_change = on_change
        self._seen: Material | None = None
        self._every = Every(interval, self._look, name="certificate watcher")

    async def __aenter__(self) -> Self:
        self._seen = await asyncio.to_thread(self._files.latest)
        await self._every.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._every.__aexit__(*exception)

    async def _look(self) -> None:
        material = await asyncio.to_thread(self._files.latest)
        if material is self._seen:
            return
        self._seen = material
        done = self._on_change(material) if self._on_change is not None else None
        if done is not None:
            await done


def server_credentials(
    files: IdentityFiles, on_reload: Callable[[Material], None] | None = None
) -> grpc.ServerCredentials:
    """Return credentials that require a client certificate and follow *files* at each handshake.

    Make one for each port: gRPC takes a new certificate only once from each. Open connections keep the old
    certificate, so a server needs a maximum connection age.

    Args:
        files: Certificate, key and trusted authorities.
        on_reload: Called on a thread of gRPC with each material that is taken into use.

    Raises:
        ConfigurationError: The files cannot be used now.
    """
    lock = threading.Lock()
    used = files.latest()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        material = files.latest()
        with lock:
            if material is used:
                return None
            used = material
        if on_reload is not None:
            on_reload(material)
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        fetch,  # type: ignore[arg-type]  # the stub forgets that None means "unchanged"
        require_client_authentication=True,
    )


def server_context(material: Material, *, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return the TLS side of an asyncio server that requires a client certificate: TLS 1.2 and up.

    It never changes: a server begins to listen with a new one when the files have changed. Sessions are not
    resumed by ticket, as that would not look at the certificate again.

    Args:
        material: Certificate, key and trusted authorities.
        protocols: What ALPN offers, for example `http/1.1`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(list(protocols))
    context.load_verify_locations(cadata=material.bundle.decode())
    # the standard library takes a pair from files only
    with tempfile.TemporaryDirectory(prefix="aegis-tls-") as folder:
        pair = Path(folder, "pair.pem")
        write_atomic(pair, material.key + b"\n" + material.cert)
        context.load_cert_chain(pair)
    return context


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Return client credentials; they never change, so a channel is replaced when the files change."""
    return grpc.ssl_channel_credentials(material.bundle, material.key, material.cert)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.cert)], root_certificates=material.bundle
    )


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no PEM certificate", path=str(path)) from error
