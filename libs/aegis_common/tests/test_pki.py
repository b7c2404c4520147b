"""The development authority, and keys."""

from __future__ import annotations

import os
import ssl
import stat
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import verification

from aegis_common.clock import utc_now
from aegis_common.errors import ConfigurationError
from aegis_common.files import swap_in, write_atomic
from aegis_common.pki import (
    DevCa,
    key_id,
    new_ed25519,
    public_key_pem,
    read_not_after,
    server_dns,
    spiffe_id_of,
)
from aegis_common.signing import Signer, load_public_key
from aegis_common.tls import IdentityFiles

DNS = server_dns("carbon", "aegis")


@pytest.fixture
def ca(tmp_path: Path) -> DevCa:
    return DevCa.load_or_create(tmp_path / "pki")


def chain_is_good(bundle: bytes, leaf: bytes) -> bool:
    store = verification.Store(x509.load_pem_x509_certificates(bundle))
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName(DNS))
    try:
        return bool(verifier.verify(x509.load_pem_x509_certificate(leaf), []))
    except verification.VerificationError:
        return False


def handshake(server: tuple[Path, Path], client: tuple[Path, Path], bundle: Path) -> str:
    """Run a strict handshake in memory; return the URI of the server that the client sees."""
    s = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(bundle))
    c = ssl.create_default_context(cafile=str(bundle))
    for context, (cert, key) in ((s, server), (c, client)):
        context.load_cert_chain(cert, key)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = c.wrap_bio(to_client, to_server, server_hostname=DNS)
    far = s.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert waiting == []
    certificate: Any = near.getpeercert()
    return str(dict(certificate["subjectAltName"])["URI"])


def test_a_leaf_passes_strict_checks_as_server_and_as_client(ca: DevCa) -> None:
    ca.issue("carbon", dns=[DNS])
    ca.issue("agent", dns=[server_dns("agent", "aegis")])

    found = handshake(ca.leaf("carbon"), ca.leaf("agent"), ca.bundle)

    assert found == "spiffe://aegis.local/ns/aegis/sa/carbon"


def test_a_leaf_has_one_uri_and_the_asked_names(ca: DevCa) -> None:
    pair = ca.issue("gateway", namespace="prod", dns=["gateway.prod.aegis.internal"], ips=["127.0.0.1"])
    san = x509.load_pem_x509_certificate(pair.cert_pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )

    assert [str(name.value) for name in san.value] == [
        "spiffe://aegis.local/ns/prod/sa/gateway",
        "gateway.prod.aegis.internal",
        "127.0.0.1",
    ]
    assert spiffe_id_of(pair.cert_pem) == "spiffe://aegis.local/ns/prod/sa/gateway"


def test_files_are_private_and_are_what_was_returned(ca: DevCa, tmp_path: Path) -> None:
    pair = ca.issue("carbon", dns=[DNS])

    assert (pair.cert.read_bytes(), pair.key.read_bytes()) == (pair.cert_pem, pair.key_pem)
    for path in (pair.cert, pair.key, tmp_path / "pki" / "ca.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(pair)


def test_the_authority_is_kept_and_two_have_different_names(tmp_path: Path) -> None:
    first = DevCa.load_or_create(tmp_path / "a")
    again = DevCa.load_or_create(tmp_path / "a")
    other = DevCa.load_or_create(tmp_path / "b")

    assert again.bundle.read_bytes() == first.bundle.read_bytes()
    names = [x509.load_pem_x509_certificate(ca.bundle.read_bytes()).subject for ca in (first, other)]
    assert names[0] != names[1]


def test_an_expired_authority_is_replaced_and_its_leaves_need_renewal(tmp_path: Path) -> None:
    old = DevCa.load_or_create(tmp_path, clock=lambda: utc_now() - timedelta(days=400))
    pair = old.issue("carbon", ttl=timedelta(days=1000))
    new = DevCa.load_or_create(tmp_path)

    assert read_not_after(pair.cert_pem) == read_not_after(old_bundle := pair_ca(old))
    assert new.bundle.read_bytes() != old_bundle
    assert new.needs_renewal("carbon", within=timedelta(0))


def pair_ca(ca: DevCa) -> bytes:
    return ca._files["ca.crt"]


def test_a_folder_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    DevCa.load_or_create(tmp_path, trust_domain="one.test")

    with pytest.raises(ConfigurationError, match=r"one\.test"):
        DevCa.load_or_create(tmp_path, trust_domain="two.test")


@pytest.mark.parametrize("damage", ["missing key", "garbage", "foreign key"])
def test_a_broken_authority_is_refused(tmp_path: Path, damage: str) -> None:
    DevCa.load_or_create(tmp_path / "ca")
    other = DevCa.load_or_create(tmp_path / "other")
    key = tmp_path / "ca" / "ca.key"
    if damage == "missing key":
        key.unlink()
    else:
        key.write_bytes(b"x" if damage == "garbage" else other._files["ca.key"])

    with pytest.raises(ConfigurationError, match="CA"):
        DevCa.load_or_create(tmp_path / "ca")


@pytest.mark.parametrize("account", ["", "../x", "Carbon", "a/b", "a" * 64, "x\n"])
def test_an_account_that_is_no_name_is_refused(ca: DevCa, account: str) -> None:
    with pytest.raises(ConfigurationError):
        ca.issue(account)


def test_renewal_is_due_before_the_end(ca: DevCa) -> None:
    assert ca.needs_renewal("carbon", within=timedelta(0))
    ca.issue("carbon", ttl=timedelta(hours=2))

    assert not ca.needs_renewal("carbon", within=timedelta(hours=1))
    assert ca.needs_renewal("carbon", within=timedelta(hours=3))


def test_rotation_of_the_authority_never_leaves_a_leaf_untrusted(ca: DevCa, tmp_path: Path) -> None:
    old = ca.issue("carbon", dns=[DNS]).cert_pem
    ca.add_ca()
    assert chain_is_good(ca.bundle.read_bytes(), old)
    still_old = ca.issue("carbon", dns=[DNS]).cert_pem

    ca = DevCa.load_or_create(tmp_path / "pki")  # a restart between two steps loses nothing
    ca.switch_ca()
    assert ca.needs_renewal("carbon", within=timedelta(0))
    new = ca.issue("carbon", dns=[DNS]).cert_pem
    assert [chain_is_good(ca.bundle.read_bytes(), leaf) for leaf in (old, still_old, new)] == [True] * 3

    ca.drop_old_cas()
    assert [chain_is_good(ca.bundle.read_bytes(), leaf) for leaf in (old, still_old, new)] == [
        False,
        False,
        True,
    ]
    assert not (tmp_path / "pki" / "next.key").exists()


def test_a_switch_without_a_next_authority_is_refused(ca: DevCa) -> None:
    with pytest.raises(ConfigurationError, match="next"):
        ca.switch_ca()


def test_a_reader_of_a_busy_folder_never_sees_half_a_pair(ca: DevCa) -> None:
    ca.issue("carbon", dns=[DNS])
    files = IdentityFiles(*ca.leaf("carbon"), ca.bundle)
    stop = threading.Event()
    faults: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                files.read()
            except Exception as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        ca.issue("carbon", dns=[DNS])
    stop.set()
    reader.join()

    assert faults == []


def versions(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def test_a_swap_removes_versions_that_nobody_can_be_reading(tmp_path: Path) -> None:
    for number in range(5):
        swap_in(tmp_path, {"a": b"%d" % number, "b": b""})
    assert len(versions(tmp_path)) == 5
    for path in versions(tmp_path):
        os.utime(path, (0, 0))
    swap_in(tmp_path, {"a": b"last"})

    assert (tmp_path / "a").read_bytes() == b"last"
    assert not (tmp_path / "b").is_symlink()
    assert len(versions(tmp_path)) == 2  # this one and the one before


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()

    with pytest.raises(OSError):
        write_atomic(tmp_path / "taken", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_signing_key_is_private_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "audit.key"
    key = new_ed25519(path)
    (tmp_path / "audit.pem").write_bytes(public_key_pem(key))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.load(path).key_id == key_id(key.public_key())
    assert load_public_key(tmp_path / "audit.pem") == key.public_key()
    assert isinstance(serialization.load_pem_private_key(path.read_bytes(), None), type(key))
    with pytest.raises(ConfigurationError, match="not overwritten"):
        new_ed25519(path)


def test_text_without_a_certificate_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no certificate"):
        read_not_after(b"nothing")


def test_a_certificate_with_two_uris_has_no_spiffe_id(ca: DevCa) -> None:
    authority = x509.load_pem_x509_certificate(ca.bundle.read_bytes())
    key = serialization.load_pem_private_key(ca._files["ca.key"], None)
    names = [x509.UniformResourceIdentifier(f"spiffe://aegis.local/{name}") for name in ("a", "b")]
    builder = x509.CertificateBuilder(
        issuer_name=authority.subject,
        subject_name=authority.subject,
        public_key=authority.public_key(),
        serial_number=1,
        not_valid_before=utc_now(),
        not_valid_after=utc_now() + timedelta(hours=1),
    ).add_extension(x509.SubjectAlternativeName(names), critical=False)
    cert = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]

    assert spiffe_id_of(cert.public_bytes(serialization.Encoding.PEM)) == ""
