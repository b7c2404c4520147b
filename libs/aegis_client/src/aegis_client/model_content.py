"""What is pushed and what is pulled: packed, signed, checked, and put in its place."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aegis_client.errors import FailedPrecondition, UsageError
from aegis_client.model_forms import ModelVersion, Signed
from aegis_client.publisher_files import load_signer
from aegis_client.publisher_forms import Publisher, PublisherKey
from aegis_common.errors import AegisError, ConfigurationError
from aegis_common.files import write_atomic
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.bundle import FORMAT_BUNDLE, Bundle, unpack
from aegis_common.store.errors import InvalidModelBundle, InvalidProvenance
from aegis_common.store.manifest import Manifest, seal, unseal

FORMAT_ONNX: Final = "onnx"
_VERSION_LENGTH: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A model and the key that will sign it.

    Attributes:
        data: An ONNX file, or a bundle.
        sha256: Of the data.
        model: Name to publish under.
        version: Id to publish under.
    """

    data: bytes = field(repr=False)
    format: str
    sha256: str
    model: str
    version: str
    key: Path
    signer: Signer

    @classmethod
    def of(cls, source: Path | str, *, name: str, version: str, key: Path) -> Self:
        """Return what *source* holds: a folder with `model.yaml`, or an ONNX file.

        Raises:
            UsageError: It is neither, something in it is wrong, it has no name, or there is no key.
        """
        path = Path(source)
        if path.is_dir():
            with _usage():
                bundle = Bundle.of_folder(path)
                data, form = bundle.packed(), FORMAT_BUNDLE
            name, version = name or bundle.spec.name or "", version or bundle.spec.version or ""
        else:
            data, form = _onnx(path), FORMAT_ONNX
        if not name:
            raise UsageError(f"{path} does not say what the model is called; give its name")
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(
            data=data,
            format=form,
            sha256=sha256,
            model=name.removeprefix("models/"),
            version=version or sha256[:_VERSION_LENGTH],
            key=key,
            signer=load_signer(key),
        )

    @property
    def filename(self) -> str:
        return _filename(self.model, self.version, self.format)

    def check_enrolled(self, keys: Iterable[PublisherKey]) -> None:
        """Refuse a key that the service would refuse, before anything large is sent.

        Raises:
            UsageError: It is not enrolled, or revoked.
        """
        state = next((key.state for key in keys if key.key_id == self.signer.key_id), "not enrolled")
        if state != "ACTIVE":
            away = "" if state == "not enrolled" else "move that file away and "
            raise UsageError(
                f"the publisher key {self.signer.key_id} in {self.key} is {state.lower()}; "
                f"{away}enroll one: aegis models keys enroll"
            )

    def sealed(self, publisher: Publisher, provenance: Mapping[str, Any]) -> bytes:
        """Return the signed manifest.

        Raises:
            UsageError: *provenance* holds something that JSON cannot carry.
        """
        manifest = Manifest(
            tenant=publisher.tenant,
            model=self.model,
            version=self.version,
            sha256=self.sha256,
            size_bytes=len(self.data),
            format=self.format,
            created_at=datetime.now(UTC),
            provenance=dict(provenance),
            signer_key_id=self.signer.key_id,
        )
        with _usage():
            return seal(manifest, self.signer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A version whose manifest has been verified.

    Attributes:
        version: With digest and size as they were signed.
        place: Where it goes.
    """

    version: ModelVersion
    place: Path
    is_bundle: bool

    @classmethod
    def of(
        cls,
        signed: Signed,
        *,
        publisher: Publisher,
        trusted: TrustedKeys,
        target: Path | str,
    ) -> Self:
        """Verify who signed what, and find the place.

        Raises:
            FailedPrecondition: Reason `MODEL_SIGNATURE_INVALID` or `RECORD_UNREADABLE`.
            UsageError: Something is at the place that nobody asked to replace.
        """
        manifest = _manifest(signed, trusted, publisher.tenant)
        return cls(
            version=replace(signed.version, sha256=manifest.sha256, size_bytes=manifest.size_bytes),
            place=_place(manifest, Path(target)),
            is_bundle=manifest.format == FORMAT_BUNDLE,
        )

    def land(self, data: bytes) -> Path:
        """Put *data*, whose digest has been checked, in its place: whole or not at all.

        Raises:
            FailedPrecondition: Reason `INVALID_MODEL_BUNDLE`: it should be a bundle, and is none.
            UsageError: The place cannot be written.
        """
        try:
            if self.is_bundle:
                _unpack(data, self.place)
            else:
                write_atomic(self.place, data, mode=0o644)
        except InvalidModelBundle as error:
            raise _refused(error) from error
        except OSError as error:
            raise UsageError(f"{self.place} cannot be written: {error.strerror or error}") from error
        return self.place


def named_keys(paths: Path | str | Sequence[Path | str]) -> TrustedKeys:
    """Return the public keys in PEM files, or in folders of `*.pem`.

    Raises:
        UsageError: A path cannot be read, or there is no key.
    """
    given = [paths] if isinstance(paths, Path | str) else paths
    with _usage():
        return TrustedKeys.load(*(Path(path).expanduser() for path in given))


def enrolled_keys(keys: Iterable[PublisherKey]) -> TrustedKeys:
    """Return the keys that may have signed what is served: all that are not compromised."""
    sound = [key.public_key for key in keys if key.state in ("ACTIVE", "RETIRED")]
    return TrustedKeys(Ed25519PublicKey.from_public_bytes(raw) for raw in sound)


def _onnx(path: Path) -> bytes:
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} is neither a folder with model.yaml nor an .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"file {path} cannot be read: {error.strerror}") from error
    if not data:
        raise UsageError(f"file {path} is empty")
    return data


def _filename(model: str, version: str, form: str) -> str:
    return f"{model}-{version}" + ("" if form == FORMAT_BUNDLE else ".onnx")


def _manifest(signed: Signed, trusted: TrustedKeys, tenant: str) -> Manifest:
    name = signed.version.name
    try:
        manifest = unseal(signed.manifest, key=f"of {name}", trusted=trusted)
    except AegisError as error:
        raise _refused(error) from error
    found = f"models/{manifest.model}/versions/{manifest.version}"
    if (found, manifest.tenant) != (name, tenant):
        raise FailedPrecondition(
            f"the manifest of {name} was signed for {found} of tenant {manifest.tenant!r}; somebody moved it",
            code="FAILED_PRECONDITION",
            reason="MODEL_SIGNATURE_INVALID",
        )
    return manifest


def _place(manifest: Manifest, target: Path) -> Path:
    if target.is_dir():
        place = target / _filename(manifest.model, manifest.version, manifest.format)
        if place.exists():
            raise UsageError(f"{place} is there already; name another place")
        return place
    if manifest.format == FORMAT_BUNDLE and target.exists():
        raise UsageError(f"{target} is a file; a bundle becomes a folder")
    return target


def _unpack(data: bytes, place: Path) -> None:
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        unpack(data, draft)
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refused(error: AegisError) -> FailedPrecondition:
    return FailedPrecondition(
        error.message, code="FAILED_PRECONDITION", reason=error.reason, metadata=error.metadata
    )


@contextmanager
def _usage() -> Iterator[None]:
    """What is wrong with the caller's own files and values is wrong usage."""
    try:
        yield
    except (InvalidModelBundle, InvalidProvenance, ConfigurationError) as error:
        raise UsageError(error.message) from error
