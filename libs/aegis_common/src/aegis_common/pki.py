"""A small certificate authority for one machine and for tests, and the keys that sign audit logs and models.

In production SPIRE or cert-manager writes the files; services only ever read them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis_common import signing
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError
from aegis_common.files import read_file, swap_in, write_atomic

DEFAULT_TTL: Final = timedelta(hours=24)
CA_TTL: Final = timedelta(days=365)
_BACKDATED: Final = timedelta(minutes=5)  # clocks of one mesh differ a little
_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

CERT_NAME: Final = "tls.crt"
KEY_NAME: Final = "tls.key"


def server_dns(service: str, namespace: str) -> str:
    """Return the DNS SAN that only *service* gets, and that Python clients pin."""
    return f"{service}.{namespace}.aegis.internal"


def spiffe_id(trust_domain: str, namespace: str, account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"


@dataclass(frozen=True, slots=True)
class IssuedPair:
    """A new certificate and its key, and where they were written.

    Attributes:
        cert_pem: Certificate, PEM.
        key_pem: EC P-256 private key, PEM (PKCS 8, not encrypted).
        cert: Path of the certificate; stays the same when the pair is issued again.
        key: Path of the key.
    """

    cert_pem: bytes
    key_pem: bytes
    cert: Path
    key: Path

    def __repr__(self) -> str:
        return f"IssuedPair({self.cert})"


@dataclass(frozen=True, slots=True)
class _Authority:
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class DevCa:
    """A certificate authority whose whole state is one folder. One writer at a time.

    `<folder>/ca.crt`, `ca.key` and `bundle.crt` are the authority and what everybody trusts;
    `<folder>/<account>/tls.crt` and `tls.key` are a leaf. Folders are swapped whole, as Kubernetes does it.

    The authority is replaced in three steps, each followed by the time that every reader needs to see the new
    files: `add_ca` (all trust the new one), `switch_ca` and issuing all leaves again, `drop_old_cas`.
    """

    def __init__(self, folder: Path, files: Mapping[str, bytes], *, trust_domain: str, clock: Clock) -> None:
        self._folder = folder
        self._files = dict(files)
        self._trust_domain = trust_domain
        self._clock = clock
        self._authority = _read_authority(folder, files)

    @classmethod
    def load_or_create(
        cls, folder: Path, *, trust_domain: str = "aegis.local", clock: Clock = utc_now
    ) -> Self:
        """Open the authority in *folder*; make a new one when there is none, or when it has expired.

        Raises:
            ConfigurationError: The folder holds a broken authority, or one of another trust domain.
        """
        if (folder / "ca.crt").exists():
            names = ["ca.crt", "ca.key", "bundle.crt", "next.crt", "next.key"]
            files = {name: read_file(folder / name, "CA file") for name in names if (folder / name).exists()}
            ca = cls(folder, files, trust_domain=trust_domain, clock=clock)
            ca._check_trust_domain()
            if ca._authority.cert.not_valid_after_utc > clock():
                return ca
        fresh = _new_authority(trust_domain, clock())
        files = _named("ca", fresh) | {"bundle.crt": cert_pem(fresh.cert)}
        swap_in(folder, files)
        return cls(folder, files, trust_domain=trust_domain, clock=clock)

    @property
    def trust_domain(self) -> str:
        return self._trust_domain

    @property
    def bundle(self) -> Path:
        """All certificate authorities that are trusted now, PEM."""
        return self._folder / "bundle.crt"

    def leaf(self, account: str) -> tuple[Path, Path]:
        """Return where the certificate and the key of *account* are, or will be."""
        return self._folder / account / CERT_NAME, self._folder / account / KEY_NAME

    def issue(
        self,
        account: str,
        *,
        namespace: str = "aegis",
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        ttl: timedelta = DEFAULT_TTL,
    ) -> IssuedPair:
        """Issue and write a certificate with exactly one URI SAN, the SPIFFE id of *account*.

        Args:
            account: Service account, `[a-z0-9-]`, at most 63 characters.
            namespace: Namespace within the trust domain.
            dns: DNS SANs; a server needs `server_dns(...)`.
            ips: IP address SANs.
            ttl: Validity from now; cut to that of the authority.

        Raises:
            ConfigurationError: The account's name is no such name.
        """
        if not _ACCOUNT.fullmatch(account):
            raise ConfigurationError(
                f"service account {account!r} is not 1 to 63 of a-z, 0-9 and -", account=account
            )
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(spiffe_id(self._trust_domain, namespace, account))
        ]
        names += [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        cert = _new_leaf(self._authority, key, account, names, now=self._clock(), ttl=ttl)
        pair = IssuedPair(cert_pem(cert), private_key_pem(key), *self.leaf(account))
        swap_in(self._folder / account, {CERT_NAME: pair.cert_pem, KEY_NAME: pair.key_pem})
        return pair

    def needs_renewal(self, account: str, *, within: timedelta) -> bool:
        """True when *account* has no certificate of this authority, or one that ends *within* this time."""
        path, _ = self.leaf(account)
        if not path.exists():
            return True
        cert = _first(path.read_bytes())
        foreign = cert.issuer != self._authority.cert.subject
        return foreign or cert.not_valid_after_utc <= self._clock() + within

    def add_ca(self) -> None:
        """Rotation, step 1: make the next authority and let everybody trust it; it does not issue yet."""
        fresh = _new_authority(self._trust_domain, self._clock())
        self._store(
            {
                **self._files,
                **_named("next", fresh),
                "bundle.crt": self._files["ca.crt"] + cert_pem(fresh.cert),
            }
        )

    def switch_ca(self) -> None:
        """Rotation, step 2: the next authority issues from now on; issue all leaves again after this.

        Raises:
            ConfigurationError: There is no next authority.
        """
        if "next.crt" not in self._files:
            raise ConfigurationError(f"{self._folder} holds no next CA; add one first")
        self._store(
            {
                "ca.crt": self._files["next.crt"],
                "ca.key": self._files["next.key"],
                "bundle.crt": self._files["bundle.crt"],
            }
        )

    def drop_old_cas(self) -> None:
        """Rotation, step 3: only the authority that issues now stays trusted."""
        kept = {name: self._files[name] for name in ("ca.crt", "ca.key")}
        self._store({**kept, "bundle.crt": kept["ca.crt"]})

    def _store(self, files: Mapping[str, bytes]) -> None:
        swap_in(self._folder, files)
        self._files = dict(files)
        self._authority = _read_authority(self._folder, files)

    def _check_trust_domain(self) -> None:
        expected = f"spiffe://{self._trust_domain}"
        found = _uris(self._authority.cert)
        if found != [expected]:
            raise ConfigurationError(
                f"CA in {self._folder} is of {found}, not {expected}; give another folder",
                folder=str(self._folder),
            )


def read_not_after(pem: bytes) -> datetime:
    """Return the moment (UTC) after which the first certificate of *pem* is no longer valid.

    Raises:
        ConfigurationError: There is no certificate in it.
    """
    return _first(pem).not_valid_after_utc


def spiffe_id_of(pem: bytes) -> str:
    """Return the SPIFFE id of the first certificate; empty when it has none, or more than one URI SAN.

    Raises:
        ConfigurationError: There is no certificate in *pem*.
    """
    uris = _uris(_first(pem))
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""


def new_ed25519(path: Path) -> Ed25519PrivateKey:
    """Make a signing key and write it to *path*: PEM, PKCS 8, mode 0600.

    Raises:
        ConfigurationError: There is a file already; a signing key is never overwritten.
    """
    if path.exists():
        raise ConfigurationError(f"{path} exists; a signing key is not overwritten", path=str(path))
    key = Ed25519PrivateKey.generate()
    write_atomic(path, private_key_pem(key))
    return key


def key_id(public_key: Ed25519PublicKey | ec.EllipticCurvePublicKey) -> str:
    """Return a stable name of a public key: for Ed25519 as in signatures, else the same over its DER form."""
    if isinstance(public_key, Ed25519PublicKey):
        return signing.key_id(public_key)
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


def cert_pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def public_key_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the public half of a signing key, for a folder of trusted keys."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_authority(folder: Path, files: Mapping[str, bytes]) -> _Authority:
    try:
        cert = x509.load_pem_x509_certificate(files["ca.crt"])
        key = serialization.load_pem_private_key(files["ca.key"], None)
        files["bundle.crt"]
    except (KeyError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"CA in {folder} cannot be read ({error}); remove the folder to get a new one", folder=str(folder)
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise ConfigurationError(
            f"ca.key in {folder} is not the key of ca.crt; remove the folder to get a new CA",
            folder=str(folder),
        )
    return _Authority(cert, key)


def _named(name: str, authority: _Authority) -> dict[str, bytes]:
    return {f"{name}.crt": cert_pem(authority.cert), f"{name}.key": private_key_pem(authority.key)}


def _new_authority(trust_domain: str, now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # Unique: clients that trust two authorities of one name pick the wrong one and report a bad signature.
    name = _name(f"AEGIS dev CA {secrets.token_hex(8)}")
    builder = _builder(name, name, key, now, now + CA_TTL)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")])
    builder = builder.add_extension(san, critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return _Authority(builder.sign(key, hashes.SHA256()), key)


def _new_leaf(
    authority: _Authority,
    key: ec.EllipticCurvePrivateKey,
    account: str,
    names: list[x509.GeneralName],
    *,
    now: datetime,
    ttl: timedelta,
) -> x509.Certificate:
    until = min(now + ttl, authority.cert.not_valid_after_utc)
    builder = _builder(_name(account), authority.cert.subject, key, now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    issuer = authority.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _first(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise ConfigurationError("no certificate in this PEM text") from error


def _uris(cert: x509.Certificate) -> list[str]:
    try:
        san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return san.get_values_for_type(x509.UniformResourceIdentifier)
