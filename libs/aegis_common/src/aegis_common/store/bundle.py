"""Model bundles: one zip file of `model.yaml`, `model.onnx`, and the files that `model.yaml` names.

    data = pack(Path("my-model"))        # the same folder always gives the same bytes
    bundle = Bundle.read(data)           # for bytes of anybody: nothing in them is believed
    bundle.spec.task, bundle.model, bundle.files["tokenizer.json"], bundle.labels

A bundle is published as a model version of the format `FORMAT_BUNDLE`.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import (
    FILE_NAME,
    MAX_LABELS,
    MAX_SPEC_BYTES,
    MODEL_FILE,
    SPEC_FILE,
    ModelSpec,
    read_spec,
)

FORMAT_BUNDLE: Final = "aegis-bundle"
MAX_BUNDLE_BYTES: Final = 512 << 20
"""Most bytes of all files together, unpacked."""
MAX_FILE_BYTES: Final = 32 << 20
"""Most bytes of a file that is not the model."""
MAX_FILES: Final = 64

_NAME: Final = re.compile(FILE_NAME)
_ZIP: Final = "the bundle"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_DIRECTORY_BYTES: Final = 64 << 10
_END: Final = struct.Struct("<4s4H2LH")
_END_MAGIC: Final = b"PK\x05\x06"
_LOCATOR_MAGIC: Final = b"PK\x06\x07"
_LOCATOR_BYTES: Final = 20
_ENCRYPTED: Final = 0x1
_OUTSIDE: Final = (f"{MODEL_FILE}.data", f"{MODEL_FILE}_data")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose every part has been checked; whether the model loads and answers is not known yet.

    Attributes:
        spec: What `model.yaml` says.
        spec_bytes: `model.yaml` itself.
        model: The ONNX file.
        files: The other files by name, exactly those that `spec` names.
    """

    spec: ModelSpec
    spec_bytes: bytes = field(repr=False)
    model: bytes = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, data: bytes, *, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle:
        """Return the bundle that *data* is, whoever made it; blocks, for seconds if it is made for that.

        Args:
            data: A zip file.
            max_bytes: Most bytes of all files together, unpacked.

        Raises:
            InvalidModelBundle: It is none, or a file or a field is missing, wrong or too large; the error's
                metadata has `file` and `field`.
        """
        return cls._of(_unzipped(data, max_bytes))

    @classmethod
    def of_folder(cls, folder: Path) -> Bundle:
        """Return the bundle that *folder* would become; files that `model.yaml` does not name are left out.

        Raises:
            InvalidModelBundle: As `read` says.
        """
        for name in _OUTSIDE:
            if (folder / name).exists():
                raise InvalidModelBundle.at(
                    name, f"weights outside {MODEL_FILE} are not served; save the model as one file"
                )
        spec_bytes = _read(folder, SPEC_FILE, MAX_SPEC_BYTES)
        names = (MODEL_FILE, *read_spec(spec_bytes).files)
        files = {name: _read(folder, name, _limit(name)) for name in names}
        return cls._of({SPEC_FILE: spec_bytes, **files})

    @classmethod
    def _of(cls, files: dict[str, bytes]) -> Bundle:
        for name in (SPEC_FILE, MODEL_FILE):
            if not files.get(name):
                raise InvalidModelBundle.at(name, "is missing or empty")
        spec = read_spec(files[SPEC_FILE])
        others = {name: data for name, data in files.items() if name not in (SPEC_FILE, MODEL_FILE)}
        named = spec.files
        for name in named:
            if name not in files:
                raise InvalidModelBundle.at(name, f"is missing; {SPEC_FILE} names it")
        for name in others:
            if name not in named:
                raise InvalidModelBundle.at(name, f"is unexpected; {SPEC_FILE} does not name it")
        bundle = cls(spec, files[SPEC_FILE], files[MODEL_FILE], others)
        _check_labels(bundle)
        return bundle

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the model's order, or none."""
        if not isinstance(self.spec.labels, str):
            return self.spec.labels
        lines = self.files[self.spec.labels].decode("utf-8-sig").splitlines()
        return tuple(line.strip() for line in lines if line.strip())

    @property
    def content(self) -> dict[str, bytes]:
        """All files by name, `model.yaml` and the model among them."""
        return {SPEC_FILE: self.spec_bytes, MODEL_FILE: self.model, **self.files}

    def packed(self) -> bytes:
        """Return it as a zip file; the same content always gives the same bytes."""
        content = self.content
        _check_sizes({name: len(data) for name, data in content.items()}, MAX_BUNDLE_BYTES)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            for name in sorted(content):
                archive.writestr(_entry(name), content[name])
        return target.getvalue()


def pack(folder: Path) -> bytes:
    """Return the bundle that a folder holds; the same files always give the same bytes.

    Raises:
        InvalidModelBundle: A file or a field is missing, wrong or too large; the error names it.
    """
    return Bundle.of_folder(folder).packed()


def unpack(data: bytes, folder: Path) -> Bundle:
    """Write the files of a bundle into *folder*, which is made; return the bundle.

    Raises:
        InvalidModelBundle: It is no bundle; nothing has been written then.
        FileExistsError: A file that would be written is there.
    """
    bundle = Bundle.read(data)
    content = bundle.content
    folder = folder.resolve()
    for name in content:
        if (folder / name).exists() or not (folder / name).resolve().is_relative_to(folder):
            raise FileExistsError(f"{folder / name} exists; choose an empty folder")
    for name, item in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("xb") as file:
            file.write(item)
    return bundle


def _unzipped(data: bytes, max_bytes: int) -> dict[str, bytes]:
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            _check_sizes({item.filename: item.file_size for item in entries}, max_bytes)
            return {item.filename: _content(archive, item) for item in entries}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,  # zipfile's word for an entry that asks for a newer or patented form
        ValueError,
        OSError,
        struct.error,
    ) as error:
        raise InvalidModelBundle.at(_ZIP, f"it is no sound zip file: {error}") from error


def _check_directory(data: bytes) -> None:
    """Look at the end of the file first: reading a list of entries may not take longer than it is worth."""
    if len(data) < _END.size or data[-_END.size :][:4] != _END_MAGIC:
        raise InvalidModelBundle.at(_ZIP, "it is no zip file, or has something behind its end")
    _, disk, start_disk, here, count, size, _, comment = _END.unpack(data[-_END.size :])
    locator = data[-_END.size - _LOCATOR_BYTES :][: len(_LOCATOR_MAGIC)]
    if disk or start_disk or here != count or comment or locator == _LOCATOR_MAGIC:
        raise InvalidModelBundle.at(_ZIP, "it is a zip file in parts, with a comment or of the form zip64")
    if not 1 <= count <= MAX_FILES or size > _DIRECTORY_BYTES:
        raise InvalidModelBundle.at(
            _ZIP, f"it has {count} entries in {size} bytes; at most {MAX_FILES} files go"
        )


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for item in entries:
        name = item.orig_filename
        if item.filename != name or not _is_name(name):
            raise InvalidModelBundle.at(repr(name[:100]), "is no name of a file of a bundle")
        if name.casefold() in seen:
            raise InvalidModelBundle.at(name, "is in the bundle twice")
        seen.add(name.casefold())
        kind = stat.S_IFMT(item.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise InvalidModelBundle.at(name, "is no plain file")
        if item.flag_bits & _ENCRYPTED or item.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise InvalidModelBundle.at(name, "is encrypted, or packed otherwise than stored or deflated")


def _check_sizes(sizes: Mapping[str, int], max_bytes: int) -> None:
    if len(sizes) > MAX_FILES:
        raise InvalidModelBundle.at(_ZIP, f"it has {len(sizes)} files; at most {MAX_FILES} are allowed")
    for name, size in sizes.items():
        _check_size(name, size, _limit(name))
    _check_size(_ZIP, sum(sizes.values()), max_bytes)


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise InvalidModelBundle.at(name, f"has {size} bytes; at most {limit} are allowed")


def _content(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    with archive.open(item) as file:
        # Never more than was allowed, whatever the packed bytes unfold to.
        data = file.read(item.file_size + 1)
    if len(data) != item.file_size:
        raise InvalidModelBundle.at(
            item.filename, f"has {len(data)} bytes, not the {item.file_size} it states"
        )
    return data


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    try:
        size = path.stat().st_size
        _check_size(name, size, limit)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        named = "" if name in (SPEC_FILE, MODEL_FILE) else f"; {SPEC_FILE} names it"
        raise InvalidModelBundle.at(name, f"is missing in {folder}{named}") from error
    except OSError as error:
        raise InvalidModelBundle.at(name, f"cannot be read: {error.strerror}") from error


def _check_labels(bundle: Bundle) -> None:
    if not isinstance(bundle.spec.labels, str):
        return
    try:
        count = len(bundle.labels)
    except UnicodeDecodeError as error:
        raise InvalidModelBundle.at(bundle.spec.labels, f"byte {error.start} is no UTF-8 text") from error
    if not 1 <= count <= MAX_LABELS:
        raise InvalidModelBundle.at(bundle.spec.labels, f"has {count} labels; 1 to {MAX_LABELS} are allowed")


def _limit(name: str) -> int:
    return MAX_BUNDLE_BYTES if name == MODEL_FILE else MAX_SPEC_BYTES if name == SPEC_FILE else MAX_FILE_BYTES


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # else it depends on the system that packs
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_STORED  # deflate gives other bytes with another zlib
    return entry
